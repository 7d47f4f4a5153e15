"""Texts that take effect if they are not shown as plain text."""

HOSTILE = [
    "<script>alert(1)</script>",
    "![x](https://example.org/pixel.png)",
    "```\n# not a heading\n![x](y)\n```",
    "````\n```\n`",
    "~~~\n</code></pre><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "\u202eright to left",
    "",
    "\n\n\n",
]
