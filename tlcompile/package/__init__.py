"""The bundle: its files, its manifest, how it is checked and how it is put in its place. Knows how to build nothing."""
