"""The command line: `conceptloom demo | train | sample | inspect`.

Commands are thin. What they do stands in plain functions, which notebooks may call as well.
"""
