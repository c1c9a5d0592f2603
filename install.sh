#!/bin/sh
# Builds docker-regpush and installs the program as a plugin of the docker CLI. Never prompts.
#
#   ./install.sh                into ${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
#   ./install.sh --system       for every user, into /usr/local/lib/docker/cli-plugins
#   ./install.sh --uninstall    removes the installed program (with --system: the program for every user)
#   ./install.sh --demo         installs, then pushes a small image to a registry with a password
set -eu

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}
usage() {
    sed -n 's/^#   //p' "$here/install.sh"
}
has() { command -v "$1" >/dev/null 2>&1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
system='' demo='' uninstall='' work='' policy=''
for word in "$@"; do
    case $word in
        --system) system=yes ;;
        --demo) demo=yes ;;
        --uninstall) uninstall=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            printf 'install.sh: unknown option %s\n' "$word" >&2
            usage >&2
            exit 125
            ;;
    esac
done

if [ "$system" ]; then
    plugins=/usr/local/lib/docker/cli-plugins
else
    [ "${DOCKER_CONFIG:-${HOME:-}}" ] || fail "no home directory: set HOME or DOCKER_CONFIG, or use --system"
    plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
fi
plugin=$plugins/docker-regpush

# Installs packages without starting the services of these packages.
apt_install() {
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"; } \
        >"$work/apt.log" 2>&1 || {
        tail -n 20 "$work/apt.log" >&2
        fail "apt-get could not install $*"
    }
    remove_policy
}

remove_policy() {
    [ -z "$policy" ] || rm -f "$policy"
    policy=''
}

# Succeeds if this script can install missing packages: only as root on Debian or Ubuntu.
may_install() { has apt-get && [ "$(id -u)" = 0 ]; }

# ---------------------------------------------------------------------------------------------
# build and install

# Finds the user's Rust toolchain even if HOME is set to another folder. Checks that cargo and a C linker exist.
find_rust() {
    if has getent && [ ! -d "${HOME:-}/.rustup" ]; then
        home=$(getent passwd "$(id -u)" | cut -d: -f6)
        [ -d "$home/.rustup" ] && export RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
        [ -d "$home/.cargo" ] && export CARGO_HOME="${CARGO_HOME:-$home/.cargo}"
        [ -d "$home/.cargo/bin" ] && PATH=$PATH:$home/.cargo/bin
    fi
    has cargo || fail "cargo is missing: install Rust 1.89 or later (https://rustup.rs), then run this again"
    # For the demo, this script installs a missing C linker if it can.
    if ! has cc && [ "$demo" ] && may_install; then
        say "installing gcc, for its linker"
        apt_install gcc libc6-dev
    fi
    has cc || fail "a C linker is missing: on Debian or Ubuntu \`apt-get install gcc libc6-dev\`, then run this again"
}

install_plugin() {
    find_rust
    say "building docker-regpush (a minute or two the first time)"
    mkdir -p "$plugins" || fail "cannot write to $plugins"
    plugin=$(CDPATH='' cd -- "$plugins" && pwd)/docker-regpush
    # Sets the target directory explicitly, because cargo's configuration may set another directory. Replaces the
    # plugin by a rename, because docker may be running the old plugin.
    (
        cd "$here" || exit 1
        unset CARGO_BUILD_TARGET
        target=${CARGO_TARGET_DIR:-target}
        cargo build --release --locked --quiet --target-dir "$target" ||
            fail "the build failed; Rust 1.89 or later is needed"
        { cp "$target/release/docker-regpush" "$plugin.new" && chmod 755 "$plugin.new" &&
            mv -f "$plugin.new" "$plugin"; } || fail "cannot write $plugin"
    ) || exit 1
    say "installed $("$plugin" --version) into $plugins"
    has docker || say "docker is not installed; until it is, run $plugin directly"
}

# ---------------------------------------------------------------------------------------------
# The demo. At the end, `clean_up` stops and removes everything that the demo has started, even after a failure or an
# interrupt.

registry_pid='' engine_pid='' container='' pulled='' image=''

clean_up() {
    trap - EXIT INT TERM HUP
    remove_policy
    if [ "$image" ]; then
        docker rmi -f "$image" >/dev/null 2>&1 || :
    fi
    [ -z "$container" ] || docker rm -fv "$container" >/dev/null 2>&1 || :
    [ -z "$pulled" ] || docker rmi -f registry:2 >/dev/null 2>&1 || :
    for pid in $registry_pid $engine_pid; do
        kill "$pid" 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
    done
    [ -z "$work" ] || {
        # An engine may leave a bind mount of its data folder, which must be unmounted before the folder is removed.
        awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts 2>/dev/null | sort -r |
            while read -r mounted; do umount "$mounted" || :; done
        rm -rf "$work"
    }
}

until_true() { # until_true SECONDS WHAT COMMAND...
    tries=$(($1 * 10))
    what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "timed out waiting for $what"
        sleep 0.1
    done
}

start_engine() {
    if ! has docker && may_install; then
        say "installing the package docker.io"
        apt_install docker.io
    fi
    has docker || fail "docker is missing: install it first (https://docs.docker.com/engine/install/)"
    # The demo's registry listens on the loopback interface, so the engine must run on this machine.
    endpoint=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null)} || :
    case $endpoint in
        unix://* | npipe://*) ;;
        *) fail "the demo starts a registry on this machine, but the engine at $endpoint is on another: unset DOCKER_HOST or choose a local context" ;;
    esac
    if docker version >/dev/null 2>&1; then
        say "using the engine that answers: docker $(docker version --format '{{.Server.Version}}')"
        return
    fi
    if ! has dockerd && may_install; then
        say "installing the package docker.io"
        apt_install docker.io
    fi
    { has dockerd && [ "$(id -u)" = 0 ]; } || fail "no engine answers: start docker, or run the demo as root on Debian or Ubuntu"
    unset DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH
    export DOCKER_HOST="unix://$work/docker.sock"
    printf '{}\n' >"$work/daemon.json"
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" \
        --config-file "$work/daemon.json" --bridge=none --iptables=false --ip6tables=false >"$work/dockerd.log" 2>&1 &
    engine_pid=$!
    until_true 60 "the engine (its log: $work/dockerd.log)" docker version
    say "started an engine for the demo: docker $(docker version --format '{{.Server.Version}}')"
}

# The only user who may push to the demo's registry: `demo`, with the password `open sesame`.
password='open sesame'
# shellcheck disable=SC2016 # a bcrypt hash, as `htpasswd -nbB` prints it
htpasswd='demo:$2y$05$qReCNM6MUcp1MlDQNq3mgOF9n0iTXFCF9/ga0uc4wNLmrf9TrZhfa'

start_registry() {
    if ! has docker-registry && may_install; then
        say "installing the package docker-registry"
        apt_install docker-registry
    fi
    printf '%s\n' "$htpasswd" >"$work/htpasswd"
    if has docker-registry; then
        cat >"$work/registry.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: 127.0.0.1:0}
auth: {htpasswd: {realm: demo, path: $work/htpasswd}}
YAML
        docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
        registry_pid=$!
        until_true 30 "the registry" grep -q 'listening on 127.0.0.1:' "$work/registry.log"
        port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$work/registry.log" | head -n 1)
    else
        docker image inspect registry:2 >/dev/null 2>&1 || pulled=yes
        container=$(docker create -p 127.0.0.1::5000 -e REGISTRY_AUTH=htpasswd -e REGISTRY_AUTH_HTPASSWD_REALM=demo \
            -e REGISTRY_AUTH_HTPASSWD_PATH=/htpasswd registry:2) || fail "cannot create a container from registry:2"
        docker cp "$work/htpasswd" "$container:/htpasswd" >/dev/null
        docker start "$container" >/dev/null
        port=$(docker port "$container" 5000/tcp | sed -n 's/.*://p' | head -n 1)
        listens() { docker logs "$container" 2>&1 | grep -q 'listening on '; }
        until_true 30 "the registry" listens
    fi
    say "started a registry with a password at localhost:$port"
}

show() { printf '\n$ %s\n' "$*"; }

# Pushes the image at a terminal that script(1) provides, and answers each prompt when the prompt appears.
push_at_terminal() {
    log=$work/terminal.log
    : >"$log"
    asked() { until_true 60 "the question" grep -q "$1" "$log"; }
    {
        asked 'Username: ' && printf 'demo\n'
        asked 'Password: ' && printf '%s\n' "$password"
        # Keeps stdin open until the push has finished, because script(1) would pass the end of stdin on as Ctrl-D.
        until_true 60 "the push" grep -Eq "@sha256:|error:" "$log"
    } | script -qefc "docker regpush $image" "$log"
}

demo() {
    start_engine
    start_registry

    printf 'hello from docker regpush, %s\n' "$(date)" >"$work/hello.txt"
    tar -C "$work" -cf "$work/image.tar" hello.txt
    image=localhost:$port/demo/hello:1
    docker import "$work/image.tar" "$image" >/dev/null

    say ""
    say "1. No credentials are stored, and without a terminal the plugin cannot prompt:"
    show "docker regpush $image </dev/null"
    status=0
    docker regpush "$image" </dev/null || status=$?
    say "(exit status $status)"
    [ "$status" = 3 ] || fail "the push should have failed with exit status 3"

    say ""
    if script --version 2>/dev/null | grep -q util-linux; then
        say "2. On a terminal the plugin prompts; the demo types the user \`demo\` and the password:"
        show "docker regpush $image"
        push_at_terminal || fail "the push failed"
    else
        say "2. With the password on stdin:"
        show "docker regpush --username demo --password-stdin $image <password"
        printf '%s\n' "$password" | docker regpush --username demo --password-stdin "$image"
    fi

    say ""
    say "3. In a script, stdout is the digest and nothing else:"
    show "reference=\$(docker regpush -q -u demo --password-stdin $image <password); echo \$reference"
    reference=$(printf '%s\n' "$password" | docker regpush -q -u demo --password-stdin "$image")
    say "$reference"

    say ""
    say "4. The tag, read back from the registry after the local image is removed:"
    docker rmi -f "$image" >/dev/null
    mkdir "$work/config"
    printf '{"auths":{"localhost:%s":{"auth":"%s"}}}\n' "$port" "$(printf 'demo:%s' "$password" | base64)" \
        >"$work/config/config.json"
    show "docker pull $image"
    docker --config "$work/config" pull "$image" | tee "$work/pulled"
    grep -q "^Digest: ${reference##*@}\$" "$work/pulled" || fail "the digest in the registry differs from the pushed digest"
    clean_up
    say ""
    say "Done. Everything that the demo started is stopped and removed. Next: docker regpush --help"
}

if [ "$uninstall" ]; then
    if [ -e "$plugin" ] || [ -h "$plugin" ]; then
        rm -f "$plugin" || fail "cannot remove $plugin"
        say "removed $plugin"
    else
        say "nothing is installed at $plugin"
    fi
    exit 0
fi
if [ "$demo" ]; then
    work=$(mktemp -d "${TMPDIR:-/tmp}/regpush-demo.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
fi
install_plugin
[ -z "$demo" ] || demo
