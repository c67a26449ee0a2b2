"""Completion in shells: the code that they evaluate, and the answers that it asks for.

The code asks `lastly _complete WORD...`, with the words of the line up to the cursor, and gets one candidate
per line, with a description after a tab; or the line `:files` for the names of files.
"""

from itertools import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lastly._cli.options import Command

ASK = "_complete"
FILES = ":files"

CODE = {
    "bash": """\
_lastly() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == :files ]]; then compopt -o default; return; fi
        COMPREPLY+=("${line%%$'\\t'*}")
    done < <(lastly _complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _lastly lastly
""",
    "zsh": """\
#compdef lastly
_lastly() {
    local line
    local -a found
    while IFS= read -r line; do
        if [[ $line == :files ]]; then _files; return; fi
        found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done < <(lastly _complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    _describe -V lastly found
}
if [[ $funcstack[1] == _lastly ]]; then _lastly "$@"; else compdef _lastly lastly; fi
""",
    "fish": """\
function __lastly_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (lastly _complete $words[2..-1] 2>/dev/null)
    if test "$found[1]" = :files
        __fish_complete_path (commandline -ct)
    else
        printf '%s\\n' $found
    end
end
complete -c lastly -f -a '(__lastly_complete)'
""",
}


def answers(words: "Sequence[str]", commands: "Sequence[Command]") -> "Iterable[str]":
    """Return the candidates for the last of *words*."""
    *before, word = words or ("",)
    if not before:
        first = [f"{command.name}\t{command.summary}" for command in commands]
        return [*_starting(word, first), *_starting(word, ["--help\t", "--version\t"] if word else [])]
    command = next((command for command in commands if command.name == before[0]), None)
    if command is None:
        return []
    if command.name == "run" or "--" in before:
        return [FILES]
    by_flag = {flag: argument for argument in command.arguments for flag in argument.flags}
    asked = by_flag.get(before[-1])
    if asked is not None and asked.flags[0].startswith("-") and asked.settings.get("action") != "store_true":
        return _values(asked.kind, asked.settings, word)
    if word.startswith("-"):
        options = [
            f"{argument.flags[-1]}\t{argument.settings.get('help', '')}"
            for argument in command.arguments
            if argument.flags[-1].startswith("--")
        ]
        return _starting(word, [*options, "--help\tshow this help"])
    operand = next((a for a in command.arguments if not a.flags[0].startswith("-")), None)
    return [] if operand is None else _values(operand.kind, operand.settings, word)


def _values(kind: str, settings: "dict[str, object]", word: str) -> "Iterable[str]":
    choices = settings.get("choices")
    if isinstance(choices, (list, tuple)):
        return _starting(word, [f"{choice}\t" for choice in choices])
    if kind == "ID":
        return _starting(word, _references())
    return [FILES] if kind == "FILE" else []


def _references() -> "Iterable[str]":
    from lastly._cli import tables
    from lastly._reaper import desk

    owed = (item for _, cleanups in desk.each() for item in cleanups)
    for item in chain(owed, desk.abandoned()):
        yield f"{item['ref']}\t{tables.plain(item['what'])}, {item['state']}"


def _starting(word: str, found: "Iterable[str]") -> "list[str]":
    return [each for each in found if each.startswith(word)]
