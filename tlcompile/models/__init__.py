"""Model libraries, one a file: a name -> a torch network and how its input is made from raw pixels or text.

A library's module has `Options`, `PACKAGES`, `KINDS`, `check(options) -> list of problems` (cheap compared to a build,
run before the data is read) and `build(options, classes, pretrained) -> Network`.
"""
