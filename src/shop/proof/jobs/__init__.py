"""Jobs carried end to end: ours on SQLite, and five libraries on a Redis that keeps what it acknowledged.

`tally` is where each job notes that it ran, in memory that outlives whoever is killed; `celery_jobs`, `dramatiq_jobs`,
`arq_jobs`, `taskiq_jobs`, `huey_jobs` and `our_jobs` are the same two jobs as each library wants them written;
`systems` says how each is run; `enqueuing` puts jobs in, `stand` starts and kills, `resizing` tells a worker under load
how many it may run at once, `claim` judges. Processes are `python -m shop.proof.jobs`, workers those of the libraries'
own commands.
"""
