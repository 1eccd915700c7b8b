"""``python -m lensfind.data verify DIR``: read a store against its checksums; exit status 1 if anything is damaged."""

import argparse
import sys

from lensfind.data.store import verify
from lensfind.errors import LensfindError


def main(arguments: list[str] | None = None) -> int:
    """0 for a sound store, 1 for a damaged one or none."""
    parser = argparse.ArgumentParser(prog="python -m lensfind.data", description="Look after a store of stamps.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="read every byte against its checksums and name what is damaged")
    check.add_argument("dir", help="folder with manifest.yaml")
    root = parser.parse_args(arguments).dir
    try:
        damage = verify(root, progress=True)
    except LensfindError as error:
        print(error, file=sys.stderr)
        return 1
    for place in damage:
        print(place)
    print(f"{root}: {len(damage)} damaged places" if damage else f"{root}: sound")
    return 1 if damage else 0


if __name__ == "__main__":
    sys.exit(main())
