"""Floor 2: from a clean test split to a built set on disk.

There are two kinds of sets: corruptions at severities, 17 x 5 in FER-C, with soft labels (`make_fer_c.py`), and
perturbation sequences of many frames (`make_fer_p.py`). The files in the order of use:

  modes.py         what the two commands do after their options were checked
  options.py       what may be asked of a build, and command lines for messages
  destination.py   whether the set can take its place in the end
  plan.py          which images, with which labels and settings
  state.py         whether what lies on disk was made with the same settings
  build.py         the order of a build: lock, chunks, finish, rename
  pool.py          worker processes
  worker.py        one source image -> its files (chunks.py: what a worker is given)
  forms.py         makes a form (a corrupted version of an image) and encodes it
  journal.py       what is done already
  shards.py        a build that is divided over several machines
  finishing.py     differences -> visibility -> soft labels (sequences keep the labels that the data set gives)
  tables.py        writes the labels and the other tables, and reads them
  checksums.py     the hash of every file; manifest.py: what the set was made with
  summary.py       what is printed about a finished set

built_set.py reads a finished set, verification.py hashes all of it again, estimate.py says what a build would cost,
leftovers.py removes what a build has left, layout.py names the files, integrity.py holds hashes and checks.
Nothing here imports torch.
"""
