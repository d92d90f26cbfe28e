"""What continuous integration runs: the quick checks of the product, and one emulated first start of the test flavour.

A machine that cannot build an image at all (no root, no namespaces, a mirror without the locked packages) leaves them out,
loudly: nobody may take that for a pass.
"""

from . import boot, fast, lock, trees
from .place import Lacking, need_root, run, say
from .rows import Rows


def possible():
    """Fetches what is locked and makes the tools tree; `Lacking` where this machine cannot."""
    need_root()
    done = run(["unshare", "--mount", "--propagation", "private", "true"], check=False)
    if done.returncode != 0:
        raise Lacking(f"this machine makes no mount namespaces ({done.stdout.strip()}); remedy: run it with CAP_SYS_ADMIN")
    lock.fetch(lock.read())
    trees.tools()


def checks(binary):
    """Yields the names of the failed checks."""
    try:
        possible()
    except Lacking as lacking:
        rows = Rows("fast.json")
        rows.skip("the firmware image", str(lacking))
        say("=" * 100)
        say("THE FIRMWARE IMAGE WAS NOT BUILT AND NOT CHECKED: " + str(lacking))
        say("=" * 100)
        return []
    failed = fast.run("production", binary)
    return failed + boot.run(["first boot"], binary)
