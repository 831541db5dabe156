"""The operations on the tables: one module per concern, each a set of functions of a connection.

Every function runs inside a transaction of its caller and says in its docstring what is true once
that transaction commits.
"""
