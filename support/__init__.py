"""Floor 0: small tools that all other floors use. Nothing here imports torch. Importing a module of this folder
does nothing.

  start.py            the first thing that a script does: failing imports end in one line
  cli.py              a dataclass of options becomes a command line
  errors.py           errors that a user can fix
  files.py            files that are written whole or not at all; the lock on a folder
  random_streams.py   random generators whose seed is a key, such as (seed, image id, corruption, severity)
  image_sizes.py      the sizes of images that can be corrupted and built into sets
  run_folder.py       the names in the folder of a run, and which runs a row of a table averages
  software.py         versions of the packages, for manifests and environment.json
  optional_packages.py
                      packages that only a part of the project needs
  data_set_tables.py  the names of the data sets, for run.sh
"""
