"""Where the state lies by default, and which file systems are not fit for it."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.store.place import default_path, network_filesystem

pytestmark = pytest.mark.core

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,relatime - proc proc rw
40 22 0:40 / /home rw,relatime shared:5 - nfs4 filer:/export/home rw,vers=4.2
41 40 254:1 / /home/local rw - xfs /dev/vdb rw
42 22 0:42 / /mnt/with\\040blank rw - cifs //filer/share rw
43 22 0:43 / /mnt/sshfs rw - fuse.sshfs me@far:/data rw
44 22 0:44 / /mnt/odd rw - fuse.unheard-of far:/data rw
45 22 0:45 / /data rw - lustre 10.0.0.1@tcp:/scratch rw
46 22 254:2 / /data rw - ext4 /dev/vdc rw
47 22 254:3 / /later rw - ext4 /dev/vdd rw
48 22 0:48 / /later rw - beegfs beegfs_nodev rw
49 22 0:49 / /overlay rw master:3 propagate_from:2 - overlay overlay rw,lowerdir=/a:/b
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/router.db", None),
        ("/home/me/.local/state/router.db", "nfs4"),
        ("/home/local/router.db", None),
        ("/homely/router.db", None),
        ("/mnt/with blank/router.db", "cifs"),
        ("/mnt/sshfs/router.db", "fuse.sshfs"),
        ("/mnt/odd/router.db", "fuse.unheard-of"),
        ("/data/router.db", None),
        ("/later/router.db", "beegfs"),
        ("/overlay/router.db", None),
    ],
)
def test_the_innermost_and_latest_mount_tells_the_file_system(path: str, kind: str | None) -> None:
    assert network_filesystem(Path(path), MOUNTS) == kind


def test_without_mounts_nothing_is_said() -> None:
    assert network_filesystem(Path("/x"), "") is None
    assert network_filesystem(Path("/x"), "no mount at all\n") is None


def test_the_machine_that_runs_the_tests_says_where_proc_is() -> None:
    assert network_filesystem(Path("/proc"), Path("/proc/self/mountinfo").read_text()) is None


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"XDG_STATE_HOME": "/var/state", "HOME": "/home/me"}, "/var/state/sglang-d-router/node-1-0.0.0.0-30080.db"),
        ({"HOME": "/home/me"}, "/home/me/.local/state/sglang-d-router/node-1-0.0.0.0-30080.db"),
        # The specification wants a relative path to be ignored.
        (
            {"XDG_STATE_HOME": "state", "HOME": "/home/me"},
            "/home/me/.local/state/sglang-d-router/node-1-0.0.0.0-30080.db",
        ),
    ],
)
def test_the_file_is_in_the_state_directory_of_the_user(environ: dict[str, str], path: str) -> None:
    assert default_path(environ, "node-1", "0.0.0.0", 30080) == Path(path)


def test_without_a_home_there_is_no_place() -> None:
    assert default_path({}, "node-1", "0.0.0.0", 30080) is None
    assert default_path({"HOME": ""}, "node-1", "0.0.0.0", 30080) is None


def test_an_address_becomes_a_file_name() -> None:
    path = default_path({"HOME": "/h"}, "node/../1", "fe80::1%eth0", 1)
    assert path == Path("/h/.local/state/sglang-d-router/node_.._1-fe80__1_eth0-1.db")
