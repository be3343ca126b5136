"""A probe that ends with the exit code it is told, the sentence first."""

import sys

if __name__ == "__main__":
    print(sys.argv[2], file=sys.stderr)
    sys.exit(int(sys.argv[1]))
