"""The lab: bare Debian 12 hosts on one machine, made with systemd-nspawn, each in a network namespace of its own.

How it is put together, and why:

- All state is named after the lab (`mesh-lab`, or $MESH_LAB), so `down` finds it even when its records are lost:
  `/run/<lab>` records, keys and consoles; `/var/lib/<lab>` what guests wrote; `/etc/netns/<lab>` names and ssh for the
  control namespace; namespaces `<lab>` and `<lab>.<host>`; cgroups `<lab>/<host>`.
- Guests share one base tree (`/var/cache/mesh-lab/<digest of the recipe>`) as the lower layer of an overlay; the upper
  layer survives a guest's reboot and dies with `down`.
- The control namespace holds a bridge and nothing else, so neither guests nor what runs beside them reach anything
  outside the lab. No guest ever starts in the host's network: its nftables would be the host's.
- A guest's supervisor is a two-line shell loop; nspawn leaves with 133 when a guest reboots (that is --keep-unit's
  way of saying so), and the loop boots it again.
"""
