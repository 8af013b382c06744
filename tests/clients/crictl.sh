#!/usr/bin/env bash
# Drives a running daemon with crictl and checks what it prints.
# USNEA_SOCKET, USNEA_IMAGE and USNEA_LOGS say where things are, USNEA_PRIVATE names an image that USNEA_USER may pull
# with USNEA_PASSWORD; tests/it sets them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

ctl() {
    crictl --config /dev/null --timeout 60s \
        --runtime-endpoint "unix://$USNEA_SOCKET" --image-endpoint "unix://$USNEA_SOCKET" "$@"
}

# expect DESCRIPTION PATTERN: standard input must contain a match.
expect() {
    local text
    text=$(cat)
    grep -Eq -- "$2" <<<"$text" || {
        printf 'crictl %s: no match for %s in:\n%s\n' "$1" "$2" "$text" >&2
        exit 1
    }
}

write_configs() {
    cat >"$work/pod.json" <<EOF
{"metadata": {"name": "crictl", "uid": "crictl", "namespace": "crictl"}, "log_directory": "$USNEA_LOGS", "linux": {}}
EOF
    cat >"$work/container.json" <<EOF
{"metadata": {"name": "main"}, "image": {"image": "$USNEA_IMAGE"}, "log_path": "crictl.log",
 "command": ["sh", "-c", "echo hello; exec sleep 100000"]}
EOF
}

check_runtime() {
    ctl version | expect version 'RuntimeName: +usnea'
    ctl info | expect info '"type": "RuntimeReady"'
    ctl images | expect images "${USNEA_IMAGE%:*}"
    ctl img | expect img "${USNEA_IMAGE%:*}"
}

check_lifecycle() {
    local pod container
    pod=$(ctl runp "$work/pod.json")
    container=$(ctl create "$pod" "$work/container.json" "$work/pod.json")
    ctl start "$container" >/dev/null
    ctl ps | expect ps "${container:0:13}.*Running"
    ctl pods | expect pods "${pod:0:13}.*Ready"
    ctl inspect "$container" | expect inspect '"state": "CONTAINER_RUNNING"'
    ctl inspectp "$pod" | expect inspectp '"state": "SANDBOX_READY"'
    ctl exec -s "$container" echo inside | expect 'exec -s' '^inside$'
    ctl logs "$container" | expect logs '^hello$'
    ctl stop --timeout 0 "$container" >/dev/null
    ctl ps --all | expect 'ps --all' "${container:0:13}.*Exited"
    ctl rm "$container" >/dev/null
    ctl stopp "$pod" >/dev/null
    ctl pods | expect 'pods after stopp' "${pod:0:13}.*NotReady"
    ctl rmp "$pod" >/dev/null
    if ctl pods --quiet | grep -q "$pod"; then
        printf 'crictl rmp: the pod is still listed\n' >&2
        exit 1
    fi
}

check_images() {
    if ctl pull "$USNEA_PRIVATE" 2>"$work/refused"; then
        printf 'crictl pull: a private image is given to everybody\n' >&2
        exit 1
    fi
    expect 'pull without credentials' 'PermissionDenied' <"$work/refused"
    ctl pull --creds "$USNEA_USER:$USNEA_PASSWORD" "$USNEA_PRIVATE" | expect 'pull --creds' 'sha256:[0-9a-f]{64}'
    ctl images --verbose "$USNEA_PRIVATE" | expect 'images -v' "RepoTags: $USNEA_PRIVATE"
    ctl inspecti "$USNEA_PRIVATE" | expect inspecti '"value": "1000"'
    ctl imagefsinfo | expect imagefsinfo '"usedBytes"'
    ctl rmi "$USNEA_PRIVATE" | expect rmi 'Deleted'
    ctl pull --creds "$USNEA_USER:$USNEA_PASSWORD" "$USNEA_PRIVATE" >/dev/null
    ctl rmi --prune | expect 'rmi --prune' "Deleted: $USNEA_PRIVATE"
    if ctl images --quiet "$USNEA_PRIVATE" | grep -q .; then
        printf 'crictl rmi --prune: the image is still listed\n' >&2
        exit 1
    fi
}

write_configs
check_runtime
check_lifecycle
check_images
