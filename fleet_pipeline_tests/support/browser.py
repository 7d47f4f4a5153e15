"""A real browser without a window."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect, sync_playwright

# Not playwright's five seconds: a busy machine may take any time, and the test's own timeout ends what never comes.
expect.set_options(timeout=120_000)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def a_browser() -> Iterator[Browser]:
    """The installed Chromium, or playwright's own (`make browser` installs one)."""
    installed = next((path for name in NAMES if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        # As root, which is usual in containers, Chromium cannot start its sandbox.
        sandbox = os.geteuid() != 0
        browser = playwright.chromium.launch(executable_path=installed, chromium_sandbox=sandbox)
        yield browser
        browser.close()
