# shellcheck shell=bash disable=SC2034
# Shared by the scripts beside it; sourced, never run.

root_directory=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target_directory=${CARGO_TARGET_DIR:-$root_directory/target}

say() {
    printf '%s\n' "== $*"
}

fail() {
    printf '%s\n' "${0##*/}: $*" >&2
    exit 1
}

# Runs a command as root: directly or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "'$*' needs root, and there is no sudo"
    fi
}
