"""How soon everybody knows: routing tables on etcd beside tables on ZooKeeper, as people build them with kazoo.

`watchers` are the processes that keep a table, `writers` change what stands in it, `crash` kills who serves, `outage`
kills who leads, `zookeeper` starts the other side; `claim` judges. Watchers are `python -m shop.proof.discovery`.
"""
