"""A real browser without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Chromium as it is installed, or playwright's own (`make browser` gets one)."""
    installed = next((path for name in NAMES if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        # As root, as in containers, Chromium has no sandbox to start.
        sandbox = os.geteuid() != 0
        browser = playwright.chromium.launch(executable_path=installed, chromium_sandbox=sandbox)
        yield browser
        browser.close()
