#!/bin/sh
# Checks the types of the code for Windows, and the project's lints there, on Linux. A contributor who has
# changed code for Windows, or a dependency, runs it. Nothing is linked or run, and tests are left out: they
# need Unix. No root is needed. The first run takes a few minutes.
set -eu
cd -- "$(dirname -- "$0")/.."

root=$PWD
# shellcheck source=tests/engines.sh
. tests/engines.sh
work=$root/target/windows-rust
tools=$work/tools

has cargo || fail "cargo is missing: install Rust 1.89 or later (https://rustup.rs)"
has cc || fail "a C compiler is missing: build scripts are linked with cc"
rm -rf "$tools"
mkdir -p "$tools"

# program NAME: a script of that name in $tools, from the standard input.
program() {
    { echo '#!/bin/sh' && cat; } >"$tools/$1"
    chmod 755 "$tools/$1"
}

# No standard library for Windows comes with Rust on Linux: cargo builds it, from its source. Where that is
# not installed, it is taken from Debian's sid, with the compiler of the same version. The compiler needs
# newer libraries than this machine's, so it is started with sid's loader.
export CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__
if [ ! -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ]; then
    ID=''
    # shellcheck source=/dev/null
    [ ! -e /etc/os-release ] || . /etc/os-release
    [ "$ID" = debian ] || fail "the source of the standard library is missing: rustup component add rust-src"
    step "Rust of Debian's sid"
    # Some names of packages hold a version: apt finds them by what depends on them.
    std='?name(^libstd-rust-[0-9])'
    llvm="?and(?name(^libllvm), ?reverse-depends($std))"
    unpack "$work/sid" sid rustc rust-clippy rust-src libstd-rust-dev libbsd0 libmd0 libtinfo6 \
        "$std" "?reverse-depends($std)" "?reverse-depends($llvm)"
    for loader in "$work"/sid/usr/lib/*/ld-linux-*.so.?; do :; done
    for name in rustc clippy-driver; do
        program "$name" <<SCRIPT
exec "$loader" --library-path "${loader%/*}" "$work/sid/usr/bin/$name" "\$@"
SCRIPT
    done
    export RUSTC="$tools/rustc"
    # Its clippy is newer than the one of tests/run.sh, and knows more: what counts is the lints of Cargo.toml,
    # and what is newer than the `rust-version` there.
    CLIPPY_ARGS=${CLIPPY_ARGS}-Aclippy::all__CLIPPY_HACKERY__-Dclippy::incompatible_msrv__CLIPPY_HACKERY__
fi

step "code for Windows"
# Only types are checked, so no tools for Windows are needed: dlltool makes an empty archive, and what
# stands for the C compiler and the archiver, of `ring`, does nothing.
program x86_64-w64-mingw32-dlltool <<'SCRIPT'
while [ "$1" != -l ]; do shift; done
echo '!<arch>' >"$2"
SCRIPT
# `cargo clippy` would start the driver beside itself, which may be another version's: the wrapper and
# CLIPPY_ARGS are what it sets. RUSTC_BOOTSTRAP lets a stable cargo and compiler take `-Z`.
PATH=$tools:$PATH RUSTC_WORKSPACE_WRAPPER=clippy-driver RUSTC_BOOTSTRAP=1 \
    CC_x86_64_pc_windows_gnu=true AR_x86_64_pc_windows_gnu=true CARGO_ENCODED_RUSTFLAGS=-Zno-codegen \
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=target/windows \
    cargo check --quiet --locked -Zbuild-std=std --target x86_64-pc-windows-gnu
echo "the code for Windows is fine"
