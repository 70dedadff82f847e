"""The app on Ray Serve: several replicas of it behind one address. Needs the extra ``ray``; imported by what deploys it and by
benchmarks only.

settings.py      how many, with what each
application.py   the deployments that Serve runs, and how they are wired
gateway.py       what a request meets first: where it goes, and what its client hears when that fails
doorway.py       what a request passes in Serve's proxy, before it leaves for a gateway
environment.py   how Serve is told of that, and of what it does for us
affinity.py      which requests are alike, so that one replica has read what they begin with
crowd.py         when so many are that they go by their conversations
rendezvous.py    which replica has such requests, and which others when it is full
homes.py         which replica has had such requests
ticket.py        ids that say, to us alone, which replica they are of
router.py        the same as Serve's own router of requests
replica.py       one replica: the unchanged app, called over Serve's handles
exchange.py      an ASGI app spoken to in batches of messages
calls.py         how the gateway reaches replicas
leases.py        what each key has on which replica
registry.py      the one process that knows it
quota.py         how a replica asks there, and what it does alone
exposition.py    metrics of several replicas as one text
secret.py        what ids are signed with
drain.py         the end of all of them together

doorway, environment, affinity, crowd, rendezvous, homes, ticket, leases, quota, exchange, exposition and gateway know nothing of
Ray.
"""
