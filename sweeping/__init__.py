"""Floor 5: what sweep.py consists of. Nothing here imports torch.

  jobs.py             the lines of the input as jobs, and their order
  begun_runs.py       the folder of the run that a training command has begun
  results.py          whether the result of a job exists
  shell_commands.py   the unfinished jobs as commands for a cluster (`--list`)
  slots.py            the processes of the jobs, several at a time
  stop_requests.py    Ctrl-C and other requests to stop
  durations.py        how long jobs take, and about how long the rest will take
"""
