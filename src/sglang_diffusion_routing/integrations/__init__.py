"""The router inside other programs: as a process beside a test or a notebook, in a Ray job, in place of miles' own.

What needs a package that the router itself does not (Ray) imports it when it is called.
"""
