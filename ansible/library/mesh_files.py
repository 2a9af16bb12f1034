"""An Ansible module: several files, directories and links in one task, each written whole or not at all."""

import grp
import hashlib
import os
import pwd
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mesh_files
short_description: Write several files, directories and links in one task
description:
  - A task of its own for each of thirty small files takes a second on five hosts; this is one task for all of them.
  - A file is written beside its place and renamed over it, so nobody sees half of one; so is a link.
options:
  files:
    description:
      - In the order in which they are written. Each has C(path), and C(mode), C(owner), C(group); C(content) makes it a
        file, C(target) a link, neither a directory.
    type: list
    elements: dict
    required: true
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

#: What is longer is no text that people compare: a region map has 60,000 bytes.
LONGEST_SHOWN_BYTES = 20_000


def current(path):
    """Return what is at a path: kind, mode, owner, group, and content or target."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return {"kind": "absent"}
    except NotADirectoryError:
        return {"kind": "absent"}
    if stat.S_ISLNK(found.st_mode):
        return {"kind": "link", "target": os.readlink(path)}
    facts = {"mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid}
    if stat.S_ISDIR(found.st_mode):
        return dict(facts, kind="directory")
    with open(path, "rb") as file:
        return dict(facts, kind="file", content=file.read())


def wanted(item, check):
    """Return the same of what should be there."""
    if item.get("target") is not None:
        return {"kind": "link", "target": item["target"]}
    facts = {"mode": int(item["mode"], 8)}
    try:
        facts["uid"] = pwd.getpwnam(item.get("owner") or "root").pw_uid
        facts["gid"] = grp.getgrnam(item.get("group") or "root").gr_gid
    except KeyError:
        if not check:  # a first look at a host that does not have the user yet
            raise
    if item.get("content") is not None:
        return dict(facts, kind="file", content=item["content"].encode())
    return dict(facts, kind="directory")


def put(path, want):
    """Bring a path to what is wanted."""
    if want["kind"] == "directory":
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
    elif want["kind"] == "link":
        scratch = tempfile.mktemp(prefix=".mesh-", dir=os.path.dirname(path))
        os.symlink(want["target"], scratch)
        os.rename(scratch, path)
        return
    else:
        handle, scratch = tempfile.mkstemp(prefix=".mesh-", dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(want["content"])
                file.flush()
                os.fchown(handle, want["uid"], want["gid"])
                os.fchmod(handle, want["mode"])
                os.fsync(handle)
            os.rename(scratch, path)
        except OSError:
            os.unlink(scratch)
            raise
        return
    os.chown(path, want["uid"], want["gid"])
    os.chmod(path, want["mode"])


def shown(path, facts):
    """Return what a diff has of one side: the content, and before it what else there is to a path."""
    if facts["kind"] == "absent":
        return ""
    if facts["kind"] == "link":
        return "%s -> %s\n" % (path, facts["target"])
    head = "%s %s %04o\n" % (facts["kind"], path, facts["mode"])
    content = facts.get("content", b"")
    if len(content) > LONGEST_SHOWN_BYTES:
        return "%s%d bytes, sha256 %s\n" % (head, len(content), hashlib.sha256(content).hexdigest())
    return head + content.decode(errors="replace")


def main():
    """Write what differs."""
    module = AnsibleModule({"files": {"type": "list", "elements": "dict", "required": True}}, supports_check_mode=True)
    diffs, paths = [], []
    for item in module.params["files"]:
        path = item["path"]
        try:
            want, have = wanted(item, module.check_mode), current(path)
            if all(have.get(key) == value for key, value in want.items()):
                continue
            paths.append(path)
            diffs.append(
                {"before_header": path, "after_header": path, "before": shown(path, have), "after": shown(path, want)}
            )
            if not module.check_mode:
                put(path, want)
        except (OSError, KeyError) as error:
            module.fail_json(msg="%s: %s" % (path, error), paths=paths)
    module.exit_json(changed=bool(paths), paths=paths, diff=diffs)


if __name__ == "__main__":
    main()
