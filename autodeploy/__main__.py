"""`python -m autodeploy`, for where the command is not on the path."""

import sys

from autodeploy.cli import main

sys.exit(main())
