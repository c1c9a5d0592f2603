#!/bin/bash
# Compares docker-regpush with the tools that people would use instead, in time and memory. Prints ratios of
# measurements from one run on one machine.
#
# Run this script as root on a fresh Debian or Ubuntu machine. The script installs missing packages, and starts its
# own engine and registries. The script prints a table to stdout. Each row of the table compares commands for the same
# task, which the script runs in turn (A B C A B C …). The script writes all measurements to
# target/compare/STORE.json. docs/performance.md explains the measurements.
set -euo pipefail
cd -- "$(dirname -- "$0")/.."

usage() {
    cat <<'USAGE'
usage: benches/compare.sh [--runs N] [--store classic|containerd] [--only REGEX] [ROW...]

Rows: start unchanged small large layers relay tags images registries objects; all of them if none is named.
--runs: how often each command is run (10). --store: of the engine (classic). --only: the commands of these names.
USAGE
}

runs=10
store=classic
only=''
rows=()
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=${2:?} && shift ;;
        --store) store=${2:?} && shift ;;
        --only) only=${2:?} && shift ;;
        -h | --help) usage && exit ;;
        -*) usage >&2 && exit 125 ;;
        *) rows+=("$1") ;;
    esac
    shift
done
[ "${#rows[@]}" -gt 0 ] || rows=(start unchanged small large layers relay tags images registries objects)
case $store in
    classic) config='{"features":{"containerd-snapshotter":false}}' together=0.45 together_cpu=0.55 ;;
    containerd) config='{"features":{"containerd-snapshotter":true}}' together=0.75 together_cpu=0.75 ;;
    *) usage >&2 && exit 125 ;;
esac

root=$PWD
# shellcheck source=tests/engines.sh
. tests/engines.sh
PATH=$PATH:/usr/sbin

# ---------------------------------------------------------------------------------------------
step "programs and packages"
has cargo || fail "cargo is missing: install Rust 1.89 or later (https://rustup.rs)"
need cc "gcc libc6-dev"
need hyperfine hyperfine
need jq jq
need python3 python3
[ -x /usr/bin/time ] || packages="$packages time"
need_engines
install_packages
choose_suites
read -r _ older newest <<<"$suites"
unpack_docker "$newest"
peers=$root/target/engines/peers
unpack "$peers" "$newest" docker-buildx crane
# Uses a newer skopeo than Debian 12 has, because Debian 12's skopeo uses the engine API 1.22, which engines no longer
# support. The newer skopeo needs a newer C library.
unpack "$peers-older" "$older" skopeo libc6
cargo build --quiet --release --locked
regpush=$root/target/release/docker-regpush
buildx=$peers/usr/libexec/docker/cli-plugins/docker-buildx
crane=$peers/usr/bin/crane
libraries=$peers-older/usr/lib/$(uname -m)-linux-gnu
skopeo="$libraries/$(basename "$peers-older"/usr/lib64/ld-linux*) --library-path $libraries:/usr/lib/$(uname -m)-linux-gnu $peers-older/usr/bin/skopeo"

work=$(mktemp -d "${TMPDIR:-/tmp}/regpush-compare.XXXXXX")
chmod 755 "$work"
trap 'stop_engines; remove_work' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
out=$root/target/compare
mkdir -p "$out"
samples=$work/samples
: >"$samples"

start_docker engine "$newest" "$config"
await_engine engine '2[89]|[3-9][0-9]'
docker=$work/engine/docker
# Creates a config.json with credentials. Without credentials in config.json, docker and the plugin would look for a
# credential helper.
mkdir -p "$work/home/.docker/cli-plugins"
echo '{"auths":{"registry.example.com":{"auth":"YWxpY2U6c2VjcmV0"}}}' >"$work/home/.docker/config.json"
ln -s "$regpush" "$work/home/.docker/cli-plugins/docker-regpush"
export HOME=$work/home DOCKER_HOST=unix://$work/engine/docker.sock
# The measured tools may leave files in TMPDIR, so TMPDIR is a folder that this script removes.
export TMPDIR=$work

start_registry() { # start_registry PORT
    mkdir -p "$work/$1"
    cat >"$work/$1.yml" <<CONFIG
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: "$work/$1"}}
http: {addr: "127.0.0.1:$1"}
CONFIG
    docker-registry serve "$work/$1.yml" >"$work/$1.log" 2>&1 &
    engine_pids="$engine_pids $!"
    await "the registry on port $1" "$work/$1.log" curl -sf "http://127.0.0.1:$1/v2/"
}
ports=(5811 5812 5813)
for port in "${ports[@]}"; do start_registry "$port"; done
at=localhost:${ports[0]}

# Removes all images from the registries. The registries do not cache their storage, so no restart is needed.
empty_registries() {
    for port in "${ports[@]}"; do rm -rf "${work:?}/$port/docker"; done
}

# Prints the CPU time that the engine has used so far, in clock ticks.
engine_ticks() {
    pgrep -f "$work/engine/" | sed 's|.*|/proc/&/stat|' | xargs cat 2>/dev/null |
        awk '{ sub(/.*\) /, ""); ticks += $12 + $13 } END { print ticks + 0 }'
}

# ---------------------------------------------------------------------------------------------
# sample ROW TOOL COMMAND...: measures the time of one run of COMMAND with hyperfine, the CPU time of the engine meanwhile, and
# the peak memory with GNU time. GNU time costs less than a millisecond, and is not used for the short commands of the row `start`.
sample() {
    local row=$1 tool=$2
    shift 2
    local between=(/usr/bin/time -f %M -o "$work/rss")
    echo null >"$work/rss"
    [ "$row" != start ] || between=()
    local command
    printf -v command '%q ' "${between[@]}" "$@"
    local ticks
    ticks=$(engine_ticks)
    hyperfine -N --style none --runs 1 --export-json "$work/one" "$command" >/dev/null 2>"$work/error" ||
        { cat "$work/error" && fail "$row: $tool has failed: $command"; }
    ticks=$(($(engine_ticks) - ticks))
    jq -c --arg row "$row" --arg tool "$tool" --slurpfile rss "$work/rss" \
        --argjson ticks "$ticks" --argjson hertz "$(getconf CLK_TCK)" \
        '.results[0] | {$row, $tool, wall: .times[0], cpu: (.user + .system), kilobytes: $rss[0],
            with_engine: (.user + .system + $ticks / $hertz)}' "$work/one" >>"$samples"
}

# in_turn ROW BEFORE TOOL COMMAND [TOOL COMMAND]...: measures each COMMAND in turn, for several rounds. Runs BEFORE
# before each COMMAND, without measuring BEFORE. The first round is not measured, since first runs may be slow.
in_turn() {
    local row=$1 before=$2 round commands runs=$runs
    shift 2
    commands=()
    while [ $# -gt 0 ]; do
        [[ ! $1 =~ $only ]] || commands+=("$1" "$2")
        shift 2
    done
    # The commands of the row `start` take about a millisecond, so a reliable median needs more runs.
    [ "$row" != start ] || runs=$((10 * runs))
    for ((round = 0; round <= runs; round++)); do
        set -- "${commands[@]}"
        while [ $# -gt 0 ]; do
            $before
            # shellcheck disable=SC2086 # `$2` is a command with arguments
            if [ "$round" = 0 ]; then $2 >/dev/null 2>"$work/error" || { cat "$work/error" && fail "$row: $1 fails: $2"; }; else
                sample "$row" "$1" $2
            fi
            shift 2
        done
        printf '\r%s: %d of %d ' "$row" "$round" "$runs" >&2
    done
    echo >&2
}

# script NAME: writes a script with the commands on stdin, so that several commands are measured as one process.
# Prints the path of the script.
script() {
    { echo '#!/bin/sh' && echo 'set -e' && cat; } >"$work/$1"
    chmod 755 "$work/$1"
    echo "$work/$1"
}

# image NAME LAYERS MEGABYTES: loads an image into the engine. Each block of a layer occurs twice, so that layers
# compress to half their size, as layers with programs do.
image() {
    python3 - "$@" "$work/image.tar" <<'PYTHON'
import hashlib, io, json, os, sys, tarfile
name, count, size, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) * 1_000_000, sys.argv[4]
BLOCK = 8192
with tarfile.open(out, "w") as image:
    def add(name, data):
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        image.addfile(entry, io.BytesIO(data))
    digests = []
    for number in range(count):
        data = b"".join(2 * os.urandom(BLOCK) for _ in range(size // count // BLOCK // 2))
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            entry = tarfile.TarInfo(f"file{number}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        digests.append("sha256:" + hashlib.sha256(layer.getvalue()).hexdigest())
        add(f"{number}.tar", layer.getvalue())
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                         "rootfs": {"type": "layers", "diff_ids": digests},
                         "history": [{"created_by": "benches/compare.sh"}] * count}).encode()
    add("config.json", config)
    add("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": [name],
                                      "Layers": [f"{number}.tar" for number in range(count)]}]).encode())
PYTHON
    "$docker" load -q -i "$work/image.tar" >/dev/null
}

# first_push ROW LAYERS MEGABYTES: measures the push of an image to an empty registry with each tool.
first_push() {
    local row=$1 name=$at/$1/app:1
    image "$name" "$2" "$3"
    podman=(podman --root "$work/podman" --runroot "$work/podman-run" --storage-driver "$podman_store")
    "${podman[@]}" load -q -i "$work/image.tar" >/dev/null
    rm "$work/image.tar"
    local with_crane
    with_crane=$(script "$row-crane" <<SCRIPT
"$docker" save "$name" -o "$work/saved.tar"
"$crane" push --insecure "$work/saved.tar" "$name"
rm "$work/saved.tar"
SCRIPT
    )
    in_turn "$row" empty_registries \
        'docker push' "$docker push -q $name" \
        docker-regpush "$regpush -q $name" \
        'skopeo copy' "$skopeo --insecure-policy copy -q --src-daemon-host $DOCKER_HOST --dest-tls-verify=false docker-daemon:$name docker://$name" \
        'docker save, crane push' "$with_crane" \
        'podman push' "${podman[*]} push -q --tls-verify=false $name"
    "${podman[@]}" rmi -f "$name" >/dev/null
    "$docker" rmi -f "$name" >/dev/null
}
podman_store=overlay
podman --root "$work/podman" --runroot "$work/podman-run" --storage-driver overlay info >/dev/null 2>&1 || podman_store=vfs

# many ROW NAME...: measures the push of several images whose layers the registry already has: one by one with docker
# push, and together with one run of docker-regpush.
many() {
    local row=$1
    shift
    local loop
    loop=$(printf "\"$docker\" push -q %s\n" "$@" | script "$row-loop")
    "$regpush" -q "$@" >/dev/null
    in_turn "$row" : \
        'docker push, one after the other' "$loop" \
        docker-regpush "$regpush -q $*" \
        'docker regpush' "$docker regpush -q $*"
    "$docker" rmi -f "$@" >/dev/null
}

# fake OBJECTS: starts a fake engine that sends OBJECTS progress objects for each push.
fake() {
    python3 benches/stream.py "$work/fake.$1" "$1" >"$work/fake.log" 2>&1 &
    engine_pids="$engine_pids $!"
    await "the fake engine" "$work/fake.log" curl -sf --unix-socket "$work/fake.$1" http://engine/_ping
}

# ---------------------------------------------------------------------------------------------
step "runs, in turn"
for row in "${rows[@]}"; do
    case $row in
        start)
            in_turn start : \
                /bin/true /bin/true \
                'docker-regpush, handshake' "$regpush docker-cli-plugin-metadata" \
                'docker-buildx, handshake' "$buildx docker-cli-plugin-metadata" \
                'docker-regpush --help' "$regpush --help" \
                'docker-buildx --help' "$buildx --help" \
                'docker --help' "$docker --help" \
                'docker regpush --help' "$docker regpush --help"
            ;;
        unchanged)
            name=$at/unchanged/app:1
            image "$name" 3 1
            "$regpush" -q "$name" >/dev/null
            api=$("$docker" version --format '{{.Server.APIVersion}}')
            call=$(script curl-push <<SCRIPT
curl -sS -o /dev/null --unix-socket "$work/engine/docker.sock" -X POST -H 'X-Registry-Auth: e30=' \
    "http://engine/v$api/images/$at/unchanged/app/push?tag=1"
SCRIPT
            )
            in_turn unchanged : \
                'docker push' "$docker push -q $name" \
                curl "$call" \
                docker-regpush "$regpush -q $name" \
                'docker-regpush --verify never' "$regpush -q --verify never $name" \
                'docker-regpush --if-exists update' "$regpush -q --if-exists update $name" \
                'docker regpush' "$docker regpush -q $name" \
                'docker regpush --if-exists update' "$docker regpush -q --if-exists update $name"
            "$docker" rmi -f "$name" >/dev/null
            ;;
        small) first_push small 1 64 ;;
        large) first_push large 1 460 ;;
        layers) first_push layers 40 64 ;;
        relay)
            # An upload by the engine and through the relay: one large layer, 40 layers, and ten layers of 30 MB (for the
            # peak memory; the content compresses to half its size).
            for shape in '1 460' '40 440' '10 600'; do
                read -r count size <<<"$shape"
                name=$at/relay-$count/app:1
                image "$name" "$count" "$size"
                in_turn "relay-$count" empty_registries \
                    'docker-regpush --relay never' "$regpush -q --verify never --relay never $name" \
                    'docker-regpush --relay always' "$regpush -q --verify never --relay always $name"
                "$docker" rmi -f "$name" >/dev/null
            done
            ;;
        tags)
            image "$at/tags/app:1" 3 1
            names=("$at/tags/app:1")
            for tag in $(seq 2 12); do
                "$docker" tag "$at/tags/app:1" "$at/tags/app:$tag"
                names+=("$at/tags/app:$tag")
            done
            many tags "${names[@]}"
            ;;
        images)
            names=()
            for number in 1 2 3 4; do
                image "$at/images/app$number:1" 3 1
                names+=("$at/images/app$number:1")
            done
            many images "${names[@]}"
            ;;
        registries)
            image "$at/registries/app:1" 3 1
            names=("$at/registries/app:1")
            for port in "${ports[@]:1}"; do
                "$docker" tag "$at/registries/app:1" "localhost:$port/registries/app:1"
                names+=("localhost:$port/registries/app:1")
            done
            many registries "${names[@]}"
            # A first push to three registries.
            name=$at/registries/app:1
            image "$name" 1 460
            destinations=()
            for port in "${ports[@]}"; do destinations+=("localhost:$port/registries/"); done
            in_turn registries-460 empty_registries \
                'docker-regpush, one after the other' \
                "$(printf "\"$regpush\" -q $name --to %s\n" "${destinations[@]}" | script registries-loop)" \
                'docker-regpush --relay never' "$regpush -q --relay never $name ${destinations[*]/#/--to }" \
                docker-regpush "$regpush -q $name ${destinations[*]/#/--to }"
            "$docker" rmi -f "$name" >/dev/null
            ;;
        objects)
            for objects in 10000 1000000; do
                fake "$objects"
                DOCKER_HOST=unix://$work/fake.$objects in_turn "objects-$objects" : \
                    'docker push' "$docker push $at/x:1" \
                    docker-regpush "$regpush --verify never $at/x:1"
            done
            ;;
        *) fail "there is no row \`$row\`" ;;
    esac
done

# ---------------------------------------------------------------------------------------------
step "ratios"
# One goal per line: row, tool, measure, baseline tool, maximum ratio between tool and baseline tool.
goals='start|docker-regpush, handshake|wall|/bin/true|1.5
start|docker-regpush, handshake|wall|docker-buildx, handshake|0.0333
unchanged|docker-regpush|wall|docker push|0.75
unchanged|docker-regpush|wall|curl|1.15
unchanged|docker-regpush --verify never|wall|curl|1.15
unchanged|docker regpush|wall|docker push|0.75
unchanged|docker-regpush --if-exists update|wall|docker push|0.5
unchanged|docker regpush --if-exists update|wall|docker push|0.5
large|docker-regpush|wall|docker push|1.02
large|docker-regpush|cpu|docker push|0.4
large|docker-regpush|kilobytes|docker push|0.4
relay-1|docker-regpush --relay always|wall|docker-regpush --relay never|1.1
relay-40|docker-regpush --relay always|wall|docker-regpush --relay never|1.25
tags|docker-regpush|wall|docker push, one after the other|0.5
tags|docker regpush|wall|docker push, one after the other|0.5
images|docker-regpush|wall|docker push, one after the other|0.5
images|docker regpush|wall|docker push, one after the other|0.5
registries|docker-regpush|wall|docker push, one after the other|0.5
registries|docker regpush|wall|docker push, one after the other|0.5
registries-460|docker-regpush|wall|docker-regpush, one after the other|'$together'
registries-460|docker-regpush|with_engine|docker-regpush, one after the other|'$together_cpu'
objects-1000000|docker-regpush|cpu|docker push|0.3'
size=$(stat -c %s "$regpush")
jq -n --arg goals "$goals" --arg store "$store" --argjson runs "$runs" --argjson size "$size" \
    --arg engine "$("$docker" version --format '{{.Server.Version}}')" --arg cores "$(nproc)" --slurpfile samples "$samples" '
    def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
    ($samples | group_by([.row, .tool]) | map({
        row: .[0].row, tool: .[0].tool, runs: length,
        wall: (map(.wall) | median), cpu: (map(.cpu) | median),
        with_engine: (map(.with_engine) | median),
        kilobytes: (if .[0].kilobytes then map(.kilobytes) | median else null end)
    })) as $medians
    | def value($row; $tool; $measure): first($medians[] | select(.row == $row and .tool == $tool))[$measure];
    {engine: $engine, store: $store, cores: ($cores | tonumber), runs: $runs, binary_bytes: $size, medians: $medians,
     goals: [$goals | split("\n")[] | split("|") as [$row, $tool, $measure, $base, $most]
        | select(any($medians[]; .row == $row and .tool == $tool) and any($medians[]; .row == $row and .tool == $base))
        | {row: $row, tool: $tool, measure: $measure, against: $base, at_most: ($most | tonumber),
           ratio: (value($row; $tool; $measure) / value($row; $base; $measure))}],
     samples: $samples}' >"$out/$store.json"
jq -r '
    def shown($digits): . * pow(10; $digits) | round / pow(10; $digits);
    "engine \(.engine), \(.store) store, \(.cores) cores, \(.runs) runs of each, medians; binary \(.binary_bytes) bytes (goal: at most 7000000)\n",
    "| row | command | wall, ms | ratio | CPU, ms | ratio | peak memory, MB | ratio |", "|---|---|---|---|---|---|---|---|",
    (.medians as $all | $all[] | .row as $row
        | first($all[] | select(.row == $row and (.tool | test("^(/bin/true|docker push.*|docker-regpush --relay never|docker-regpush, one after the other)$")))) as $against
        | "| \(.row) | \(.tool) | \(.wall * 1000 | shown(1)) | \(.wall / $against.wall | shown(2)) | \(.cpu * 1000 | shown(1)) | \(.cpu / $against.cpu | shown(2)) | \(if .kilobytes then "\(.kilobytes / 1024 | shown(1)) | \(.kilobytes / $against.kilobytes | shown(2))" else "| " end) |"),
    "\n| goal | ratio | at most | |", "|---|---|---|---|",
    (.goals[] | "| \(.row): \(.tool), \(.measure), against \(.against) | \(.ratio | shown(3)) | \(.at_most) | \(if .ratio <= .at_most then "met" else "missed" end) |")
' "$out/$store.json" | tee "$out/$store.md"
echo
echo "all figures: target/compare/$store.json"
