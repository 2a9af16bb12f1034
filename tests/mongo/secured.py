"""A mongod as a deployment runs it: templates/mongod.conf.j2 with accounts, keyfile and TLS, on loopback addresses."""

import datetime as dt
import ipaddress
import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pymongo import MongoClient

from mesh.store.accounts import ADMIN, ROLES
from mesh.store.mongod import find_mongod, free_port
from mesh.store.provision import Outcome, Wanted, provision

ROOT = Path(__file__).parent.parent.parent
LOOPBACK = "127.0.0.1"


class Authority:
    """A small CA, as `scripts/secrets` makes one."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA of a test")])
        builder = self._builder(self._name, self._key.public_key(), 3650)
        usage = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """The certificate that others trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *addresses: str, days: int = 30) -> bytes:
        """Return a key and a certificate for a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, addresses[0])])
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        builder = self._builder(name, key.public_key(), days)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return key.private_bytes(*form) + certificate

    def _builder(self, subject: x509.Name, key: Any, days: int) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        return builder.not_valid_after(now + dt.timedelta(days=days))


class Secured:
    """One mongod under a configuration rendered from the template, with what it takes to provision it."""

    def __init__(
        self, directory: Path, authority: Authority, address: str = "127.0.0.2", *, keyfile: str | None = None,
    ) -> None:  # fmt: skip
        self.directory, self.address, self.port = directory, address, free_port()
        self.authority = authority
        self.keyfile = keyfile or secrets.token_hex(48)
        self.passwords = {name: secrets.token_urlsafe(24) for name in (ADMIN, *ROLES)}
        self.ca_file = directory / "ca.pem"
        (directory / "data").mkdir(parents=True)
        self.ca_file.write_bytes(authority.pem)
        (directory / "server.pem").write_bytes(authority.issue(LOOPBACK, address))
        (directory / "keyfile").write_text(self.keyfile)
        (directory / "keyfile").chmod(0o400)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _render(self) -> str:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
        template = environment.from_string((ROOT / "templates/mongod.conf.j2").read_text())
        defaults = yaml.safe_load((ROOT / "ansible/roles/mongodb/defaults/main.yml").read_text())
        own = {
            "mesh_address": self.address, "mongodb_port": self.port, "mongodb_replica_set": "ne",
            "mongodb_data_directory": f"{self.directory}/data", "mongodb_configuration_directory": str(self.directory),
            "mongodb_cache_gb": 0.25, "mongodb_oplog_mb": 990,
        }  # fmt: skip
        return template.render(defaults | own)

    @property
    def host(self) -> str:
        """The name of this member in its set."""
        return f"{self.address}:{self.port}"

    @property
    def uri(self) -> str:
        """The shard's URI."""
        return f"mongodb://{self.host}/?replicaSet=ne"

    def start(self) -> None:
        """Start it, and return when it listens."""
        (self.directory / "mongod.conf").write_text(self._render())
        log = self.directory / "log"
        command = [find_mongod(), "--config", self.directory / "mongod.conf"]
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        deadline = time.monotonic() + 30
        while b"Waiting for connections" not in log.read_bytes():
            assert self._process.poll() is None, log.read_text()[-2_000:]
            assert time.monotonic() < deadline, log.read_text()[-2_000:]
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once: nobody needs it to be tidy."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wanted(self, **changes: Any) -> Wanted:
        """Return what a deployment would ask for."""
        plain = Wanted(
            address=f"{LOOPBACK}:{self.port}", replica_set="ne", members=[self.host], own=self.host,
            keyfile=self.keyfile, passwords=self.passwords, ca_file=str(self.ca_file),
            certificate_file=str(self.directory / "server.pem"),
        )  # fmt: skip
        return msgspec.structs.replace(plain, **changes)

    def provision(self, *, change: bool = True, **changes: Any) -> Outcome:
        """Make it a shard."""
        return provision(self.wanted(**changes), change=change, seconds=30)

    def json(self, **changes: Any) -> str:
        """Return what stands on standard input of `mesh-store provision`."""
        return json.dumps(msgspec.to_builtins(self.wanted(**changes)))

    def client(
        self, name: str, password: str | None = None, database: str = "mesh", **options: Any
    ) -> MongoClient[Any]:
        """Log in over the mesh address, the admin over loopback."""
        given = {"authSource": "admin" if name == ADMIN else database} | options
        host = given.pop("host", f"{LOOPBACK}:{self.port}" if name == ADMIN else self.host)
        return MongoClient(
            host, directConnection=True, tls=True, tlsCAFile=str(self.ca_file), username=name,
            password=password or self.passwords[name], serverSelectionTimeoutMS=3_000, **given,
        )  # fmt: skip
