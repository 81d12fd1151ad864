from __future__ import annotations

import sys

from hexpath_deploy.cli import main

sys.exit(main())
