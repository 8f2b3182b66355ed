"""The command line: answers on stdout, everything else on stderr; errors are one line and exit code 2."""

import sys

from .app import app


def main() -> None:
    """Run the command line; with `--debug` errors keep their traceback."""
    debug = "--debug" in sys.argv
    try:
        app(args=[a for a in sys.argv[1:] if a != "--debug"], prog_name="sharedllm")
    except (ValueError, OSError) as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


__all__ = ["main"]
