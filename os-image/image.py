#!/usr/bin/env python3
"""The firmware image: `./justw image`, `image-boot`, `image-test`, `image-fast`, `image-inspect`, `image-lock` run this.

Python 3.11's standard library and Debian's packages, nothing else. What the image is made of stands in image.toml,
what is laid over Debian's files in root/, the work in lightbox_image/. README.md tells the rest.
"""

import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
sys.dont_write_bytecode = True

from lightbox_image.main import main  # noqa: E402

sys.exit(main())
