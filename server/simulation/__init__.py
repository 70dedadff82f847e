"""``genarm simulate``: many replicas under the traffic of many users, from measured times of steps.

==================  ================================================================================================
``request``         what one user asks: a prompt that begins as others do, an answer's length, who is weighed in
``limits``          what a replica may do side by side and keep
``memory``          the cache of one member of one replica, and the prompts kept there
``slabs``           where its rows lie, and what is written to put them in order
``replica``         the engine's scheduler, step by step, without the engine
``cost``            seconds of a step, fitted to measured ones
``assumed``         a machine by its data sheet, in the place of a measured one
``host``            replicas that share a machine
``traffic``         who comes when, and with what
``routing``         which replica gets a request
``cluster``         the event loop
``outcome``         what came of it: percentiles, throughput, conservation
``prices``          from that to money
``bottleneck``      what is full first, by formulae
``sweep``           many simulations, one file
==================  ================================================================================================

Nothing here needs torch or a web package. What is measured for it, and what it is compared with, is in ``server/bench/scale/``.
"""
