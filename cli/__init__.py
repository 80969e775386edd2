"""The command line: `conceptloom demo | train | sample | inspect`.

Commands are thin. Their work is in plain functions, which notebooks can call too.
"""
