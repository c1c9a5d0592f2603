# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_docker_regpush_global_optspecs
    string join \n a/all-tags digest-file= dry-run format= github-output if-exists= keep-tag metadata-file= no-prompt parallel= platform= progress= q/quiet retries= save-credentials stall-timeout= timeout= to= verify= u/username= password-stdin anonymous disable-content-trust= config= c/context= D/debug= H/host= l/log-level= tls= tlscacert= tlscert= tlskey= tlsverify= h/help V/version
end

function __fish_docker_regpush_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_docker_regpush_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_docker_regpush_using_subcommand
    set -l cmd (__fish_docker_regpush_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l digest-file -d 'Write the digest to a file (one image only)' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l format -d 'The result on stdout: "ref" (NAME@DIGEST), "json" (default "ref")' -r -f -a "ref\t''
json\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l if-exists -d 'If the tag exists: "overwrite", "update", "skip", "fail" (default "overwrite")' -r -f -a "overwrite\t''
update\t''
skip\t''
fail\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l metadata-file -d 'Write digests and names to a file, with the keys of buildx' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l parallel -d 'Images pushed at once (default 3)' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l platform -d 'Push one platform, os[/arch[/variant]]; "all": not less than all' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l progress -d 'Progress, on stderr: "auto", "tty", "plain", "json", "rawjson", "none" (default "auto")' -r -f -a "auto\t''
tty\t''
plain\t''
json\t'Our events, a line each'
rawjson\t'The engine\'s own objects, a line each'
none\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l retries -d 'Tries after the first, where another can help (default 5)' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l stall-timeout -d 'End a try in which nothing moves; 0: never (default 60s)' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l timeout -d 'Give up an image after so long, all of its tries together' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l to -d 'Push there: a reference, or HOST/ for the same path and tag' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l verify -d 'Ask the registry what it serves: "auto", "always", "never" (default "auto")' -r -f -a "auto\t''
always\t''
never\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s u -l username -d 'Log in as this user, for this call alone' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l disable-content-trust -d 'Accepted and ignored, as in docker 29' -r -f -a "true\t''
false\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l config -d 'Docker\'s config directory [default: $DOCKER_CONFIG or ~/.docker]' -r -f -a "(__fish_complete_directories)"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s c -l context -d 'The context that names the engine [default: $DOCKER_CONTEXT or the current one]' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s D -l debug -d 'Show each call to the engine' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s H -l host -d 'Where the engine listens: unix://, tcp:// or ssh:// [default: $DOCKER_HOST]' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s l -l log-level -d 'debug, info, warn, error or fatal; debug is the same as -D' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tls -d 'Speak TLS with the engine; also implied by --tlsverify [default: $DOCKER_TLS]' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tlscacert -d 'Trust engines with certificates of this CA [default: ca.pem in $DOCKER_CERT_PATH or ~/.docker]' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tlscert -d 'Show the engine this certificate [default: cert.pem there]' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tlskey -d 'Its key [default: key.pem there]' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tlsverify -d 'Speak TLS, and verify the engine [default: $DOCKER_TLS_VERIFY]' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s a -l all-tags -d 'Push every tag that each repository has in the engine'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l dry-run -d 'Push nothing; tell what a push would find, and end with its status'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l github-output -d 'Set the outputs of a GitHub Actions step: digest, reference'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l keep-tag -d 'Keep the local tags that --to needs'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l no-prompt -d 'Never ask for a login'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s q -l quiet -d 'Only the result, warnings and errors: --progress none'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l save-credentials -d 'Keep a login that was typed or given, as docker login does'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l password-stdin -d 'Read the password for --username from stdin'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l anonymous -d 'Use no credentials, whatever Docker holds'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s V -l version -d 'Print version'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -a "auth" -d 'Which login Docker holds for a registry, and whether the registry takes it'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -a "ls" -d 'Images that name a registry; a registry\'s repositories; a repository\'s tags'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -a "hook" -d 'A hint after a failed `docker push`, shown by docker'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -s u -l username -d 'The account to log in with' -r
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l format -d '"table", or "json": an object a line (default "table")' -r -f -a "table\t''
json\t''"
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l login -d 'Ask for a login, have the registry check it, and keep it as `docker login` does'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l password-stdin -d 'Read the password for --username from stdin'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -s u -l username -d 'Log in as this user, for this call alone' -r
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l format -d '"table", or "json": an object a line (default "table")' -r -f -a "table\t''
json\t''"
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l password-stdin -d 'Read the password for --username from stdin'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l anonymous -d 'Use no credentials, whatever Docker holds'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and not __fish_seen_subcommand_from install remove status" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and not __fish_seen_subcommand_from install remove status" -f -a "install" -d 'Have docker ask regpush after each `docker push`'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and not __fish_seen_subcommand_from install remove status" -f -a "remove" -d 'Take that back'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and not __fish_seen_subcommand_from install remove status" -f -a "status" -d 'Whether docker asks, and whether it shows hints at all'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and __fish_seen_subcommand_from install" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
