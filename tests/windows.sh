#!/bin/sh
# Checks on Linux that the code for Windows compiles and passes the project's lints. Run this script after a change to
# code for Windows or to a dependency. The script checks types only, and leaves out the tests, which need Unix. The
# script does not need root. The first run takes a few minutes.
set -eu
cd -- "$(dirname -- "$0")/.."

root=$PWD
# shellcheck source=tests/engines.sh
. tests/engines.sh
tools=$root/target/windows-tools

has cargo || fail "cargo is missing: install Rust 1.89 or later (https://rustup.rs)"
has cc || fail "a C compiler is missing: build scripts are linked with cc"
rm -rf "$tools"
mkdir -p "$tools"

# program NAME: writes the shell script on standard input to $tools/NAME.
program() {
    { echo '#!/bin/sh' && cat; } >"$tools/$1"
    chmod 755 "$tools/$1"
}

# Rust on Linux comes without the standard library for Windows, so cargo builds that library from source. If the
# source is not installed, this script takes the source and the matching compiler from Debian's sid.
export CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__
if [ ! -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ]; then
    ID=''
    # shellcheck source=/dev/null
    [ ! -e /etc/os-release ] || . /etc/os-release
    [ "$ID" = debian ] || fail "the source of the standard library is missing: rustup component add rust-src"
    step "Rust of Debian's sid"
    unpack_rust "$tools"
    export RUSTC="$tools/rustc"
    # sid's clippy is newer than the clippy of tests/run.sh, and has more lints. So this script checks only the
    # lints of Cargo.toml, and that the code uses no features newer than `rust-version` in Cargo.toml.
    CLIPPY_ARGS=${CLIPPY_ARGS}-Aclippy::all__CLIPPY_HACKERY__-Dclippy::incompatible_msrv__CLIPPY_HACKERY__
fi

step "code for Windows"
# `cargo check` checks only types, so no tools for Windows are needed. The fake dlltool writes an empty archive, and
# `true` replaces the C compiler and the archiver that the crate `ring` uses.
program x86_64-w64-mingw32-dlltool <<'SCRIPT'
while [ "$1" != -l ]; do shift; done
echo '!<arch>' >"$2"
SCRIPT
# `cargo clippy` would start the clippy-driver in cargo's own folder, which may have another version than rustc.
# `cargo check` with the following variables does the same as `cargo clippy`. RUSTC_BOOTSTRAP lets stable cargo and
# rustc accept `-Z`.
PATH=$tools:$PATH RUSTC_WORKSPACE_WRAPPER=clippy-driver RUSTC_BOOTSTRAP=1 \
    CC_x86_64_pc_windows_gnu=true AR_x86_64_pc_windows_gnu=true CARGO_ENCODED_RUSTFLAGS=-Zno-codegen \
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=target/windows \
    cargo check --quiet --locked -Zbuild-std=std --target x86_64-pc-windows-gnu
echo "the code for Windows is fine"
