"""`lastly run`: an unmodified program gets what a program written with lastly has.

launch     reads the command line, sets the environment, becomes the program by exec
handover   what the launcher tells the program, in the environment, and how the program hides it again
site/      the injected `sitecustomize`: the one door into the program
inject     runs in the program before its first line: who am I, signals, the audit hook
watch      temp files and children, seen by audit events before they exist
settle     what happens to them at the end
supervise  the other way, for `--supervise` and PID 1: stay as the parent
"""
