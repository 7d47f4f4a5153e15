"""What confines a program that a tool starts: the launcher, and the layers that it puts around the program.

`launcher`, `confine`, `landlock` and `seccomp` run in a process of their own (`python -I -S`), so they import the standard
library alone. `sandbox` starts them.
"""
