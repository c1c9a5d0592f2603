# Functions that install packages, and unpack and start engines, for tests, benchmarks and releases. tests/run.sh,
# tests/windows.sh, benches/compare.sh and .ci/release source this file in the top folder of the project, and set
# `root` to this folder.
# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154 # variables that this file shares with the scripts that source it

step() { printf '\n== %s\n' "$*"; }
fail() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# The packages that install_packages installs, each after a blank.
packages=''
need() { # need PROGRAM PACKAGE
    has "$1" || packages="$packages $2"
}

install_packages() {
    [ "$packages" ] || return 0
    [ "$(id -u)" = 0 ] || fail "please install:$packages"
    echo "installing:$packages"
    mkdir -p target
    # Prevents apt from starting services: the service of docker-registry would listen on port 5000 of every address.
    policy=/usr/sbin/policy-rc.d
    [ ! -e "$policy" ] || policy=''
    if [ "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086 # `$packages` is a list of words
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $packages; } \
        >target/apt.log 2>&1 || { tail -n 30 target/apt.log; fail "apt-get failed"; }
    [ -z "$policy" ] || rm -f "$policy"
}

need_docker() {
    need docker-registry docker-registry
    need curl curl
    need mount mount
    # The programs of the unpacked engines are linked to these libraries.
    ldconfig -p | grep -q libdevmapper.so || packages="$packages libdevmapper1.02.1"
    ldconfig -p | grep -q libseccomp.so || packages="$packages libseccomp2"
}
need_engines() {
    need_docker
    need podman podman
    need patchelf patchelf
}

# choose_suites: sets `suites` to three suites of Debian or Ubuntu: with docker 20.10, with docker 26 or 27, and with
# docker 28 or later.
choose_suites() {
    # shellcheck source=/dev/null
    . /etc/os-release
    case $ID in
        debian) suites='bookworm trixie sid' ;;
        ubuntu) suites='jammy noble-updates devel' ;;
        *) fail "cannot install engines on $ID: they come from packages of Debian or Ubuntu" ;;
    esac
}
engine_pids=''

# Prints the URL of the package mirror in apt's source files: from `URIs:` in a deb822 file, or from a `deb` line.
mirror() {
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        [ ! -f "$file" ] || sed -n -e 's/^URIs: *\([^ ]*\).*/\1/p' -e 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' "$file"
    done | grep -E "/$ID/?\$" | head -n 1
}

# unpack [--with-dependencies] INTO SUITE PACKAGE...: downloads packages of a suite, and unpacks the packages into the
# folder INTO. Does nothing if INTO is complete already.
unpack() {
    dependencies=''
    [ "$1" != --with-dependencies ] || { dependencies=yes && shift; }
    into=$1
    suite=$2
    shift 2
    [ ! -e "$into/complete" ] || return 0
    rm -rf "$into"
    mkdir -p "$into/lists/partial" "$into/packages/partial"
    # apt downloads packages as a separate user, who must be able to write to these folders.
    chmod 777 "$into/packages" "$into/packages/partial"
    keyring=/usr/share/keyrings/$ID-archive-keyring.gpg
    signed=''
    [ ! -e "$keyring" ] || signed="[signed-by=$keyring]"
    echo "deb $signed $(mirror) $suite main $([ "$ID" = debian ] || echo universe)" >"$into/list"
    (
        cd "$into/packages" || exit 1
        quietly() { "$@" >"$into/log" 2>&1 || { tail -n 20 "$into/log" && exit 1; }; }
        private() {
            quietly apt-get -q -oDir::Etc::SourceParts=/dev/null -oDir::Etc::SourceList="$into/list" \
                -oDir::State::Lists="$into/lists" -oDir::State::status="$into/installed" \
                -oDir::Cache::pkgcache= -oDir::Cache::srcpkgcache= "$@"
        }
        # With an empty list of installed packages, apt downloads every dependency, and also packages that are older
        # than the installed ones.
        : >"$into/installed"
        private update
        if [ "$dependencies" ]; then
            private -oDir::Cache::archives="$into/packages" install -y --download-only --no-install-recommends "$@"
        else
            private download "$@"
        fi
        # Since docker 26, the docker CLI is in the separate package docker-cli.
        set -- docker.io_*.deb
        if [ -e "$1" ] && ! dpkg -c "$1" | grep '/usr/bin/docker$' >/dev/null; then private download docker-cli; fi
        for package in *.deb; do
            dpkg -x "$package" .. || exit 1
        done
    ) || fail "cannot get $* from $suite"
    rm -rf "$into/packages" "$into/lists"
    touch "$into/complete"
}

# unpack_docker SUITE: unpacks the docker engine and CLI of a suite into target/engines/SUITE.
unpack_docker() { unpack "$root/target/engines/$1" "$1" docker.io containerd runc; }

# unpack_podman SUITE: unpacks podman of a suite, with the libraries of that suite, into target/engines/SUITE-podman.
unpack_podman() { unpack --with-dependencies "$root/target/engines/$1-podman" "$1" podman; }

# unpack_rust INTO: unpacks the Rust of Debian's sid into target/engines/sid-rust, with the source code of the standard
# library. Writes the scripts INTO/rustc and INTO/clippy-driver, which start the compiler with sid's loader, because it
# needs newer libraries than this machine has.
unpack_rust() {
    # The names of the packages of libstd-rust and libllvm contain a version, so apt finds these packages by patterns.
    std='?name(^libstd-rust-[0-9])'
    llvm="?and(?name(^libllvm), ?reverse-depends($std))"
    unpack "$root/target/engines/sid-rust" sid rustc rust-clippy rust-src libstd-rust-dev libbsd0 libmd0 libtinfo6 \
        "$std" "?reverse-depends($std)" "?reverse-depends($llvm)"
    for loader in "$root"/target/engines/sid-rust/usr/lib/*/ld-linux-*.so.?; do :; done
    mkdir -p "$1"
    for program in rustc clippy-driver; do
        cat >"$1/$program" <<SCRIPT
#!/bin/sh
exec "$loader" --library-path "${loader%/*}" "$root/target/engines/sid-rust/usr/bin/$program" "\$@"
SCRIPT
        chmod 755 "$1/$program"
    done
}

# start_docker NAME SUITE CONFIG: starts a docker engine at $work/NAME/docker.sock. Links the docker CLI of the suite
# to $work/NAME/docker. Tests start more engines of the suite with $work/NAME/dockerd.
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

# start_podman NAME CLI [FOLDER]: starts podman's Docker API at $work/NAME/docker.sock. Links the docker CLI at the path CLI
# to $work/NAME/docker. With a FOLDER from unpack_podman, starts the podman in that folder, otherwise the installed one.
start_podman() {
    at=$work/$1
    mkdir -p "$at"
    ln -s "$2" "$at/docker"
    program=podman
    : >"$at/containers.conf"
    if [ "${3-}" ]; then
        program=$at/program
        cp "$3/usr/bin/podman" "$program"
        # The program needs the libraries of its own suite, which may be newer than those of this machine.
        patchelf --set-interpreter "$(find "$3/usr" -name 'ld-linux*' | head -n 1)" --force-rpath \
            --set-rpath "$(dirname "$(find "$3/usr" -name libc.so.6)")" "$program"
        printf '[engine]\nhelper_binaries_dir = ["%s"]\n' "$3/usr/lib/podman" >"$at/containers.conf"
    fi
    CONTAINERS_CONF_OVERRIDE=$at/containers.conf \
        "$program" --storage-driver vfs --root "$at/data" --runroot "$at/run" system service -t 0 "unix://$at/docker.sock" \
        >"$at/log" 2>&1 &
    engine_pids="$engine_pids $!"
}

# await NAME LOG COMMAND...: waits for about a minute at most until COMMAND succeeds, which shows that the program NAME
# has started. Otherwise prints the end of the file LOG, and fails.
await() {
    awaited=$1
    awaited_log=$2
    shift 2
    tries=600
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" = 0 ]; then
            tail -n 30 "$awaited_log" >&2 || :
            fail "$awaited does not start"
        fi
        sleep 0.1
    done
}

# await_engine NAME VERSIONS: waits until the engine responds, and checks the version of the engine. VERSIONS is an
# extended regular expression for the beginning of the version, such as `26|27`. A dot must follow the match.
await_engine() {
    await "$1" "$work/$1/log" "$work/$1/docker" -H "unix://$work/$1/docker.sock" version
    engine_version=$("$work/$1/docker" -H "unix://$work/$1/docker.sock" version --format '{{.Server.Version}}')
    printf '%s\n' "$engine_version" | grep -Eq "^($2)\." || fail "$1 has version $engine_version; the tests expect $2"
    echo "$1 is up: $engine_version"
}

stop_engines() {
    for pid in $engine_pids; do
        kill "$pid" 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
    done
}

remove_work() {
    # An engine may leave a bind mount of its data folder, which must be unmounted before the folder is removed.
    awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r |
        while read -r mounted; do umount "$mounted" || :; done
    rm -rf "$work"
}
