# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_docker_regpush_global_optspecs
    string join \n a/all-tags digest-file= dry-run format= github-output if-exists= keep-tag metadata-file= no-prompt parallel= platform= progress= q/quiet relay= retries= save-credentials stall-timeout= timeout= to= verify= verify-wait= limit-rate= chunk-size= ca-file= cert-file= key-file= tls-verify= plain-http u/username= password-stdin password-command= anonymous disable-content-trust= config= c/context= D/debug= H/host= l/log-level= tls= tlscacert= tlscert= tlskey= tlsverify= h/help V/version
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

complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l digest-file -d 'Write the digest to a file (single image only)' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l format -d 'Result format on stdout: "ref" (NAME@DIGEST), "json" (default "ref")' -r -f -a "ref\t''
json\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l if-exists -d 'If the tag exists: "overwrite", "update" or "fail" if it differs, "skip" (default "overwrite")' -r -f -a "overwrite\t''
update\t''
skip\t''
fail\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l metadata-file -d 'Write digests and names to a file, in the format of buildx' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l parallel -d 'Number of concurrent pushes (default 3)' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l platform -d 'Push one platform, os[/arch[/variant]]; "all": fail if the engine lacks one' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l progress -d 'Progress on stderr: "auto", "tty", "plain", "json" (events), "rawjson" (from the engine), "none" (default "auto")' -r -f -a "auto\t''
tty\t''
plain\t''
json\t'The plugin\'s events, one per line'
rawjson\t'The engine\'s own objects, one per line'
none\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l relay -d 'Upload by the plugin: "auto", "always", "never" (default "auto")' -r -f -a "auto\t''
always\t''
never\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l retries -d 'Maximum retries after transient failures (default 5)' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l stall-timeout -d 'Retry an upload without progress after this time; 0: never (default 60s)' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l timeout -d 'Time limit per image, including retries' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l to -d 'Destination: a reference, or HOST/ to keep path and tag' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l verify -d 'Verify the result in the registry: "auto", "always", "never" (default "auto")' -r -f -a "auto\t''
always\t''
never\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l verify-wait -d 'Maximum wait until the registry shows the image (default 30s)' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l limit-rate -d 'Upload at most this number of bytes per second, such as 5m' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l chunk-size -d 'Upload layers in chunks of this size, such as 10m; 0: one stream' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l ca-file -d 'CA certificates of registries, beside those of the system' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l cert-file -d 'Client certificate for registries' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l key-file -d 'Key of the client certificate' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tls-verify -d 'Check certificates of registries; --tls-verify=false: accept any' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s u -l username -d 'Username for the registry, for this call only' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l password-command -d 'Shell command that prints the password for --username' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l disable-content-trust -d 'Accepted and ignored, as in docker 29' -r -f -a "true\t''
false\t''"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l config -d 'Docker\'s config directory [default: $DOCKER_CONFIG or ~/.docker]' -r -f -a "(__fish_complete_directories)"
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s c -l context -d 'Docker context to use [default: $DOCKER_CONTEXT or the current context]' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s D -l debug -d 'Log each request to the engine and the registry' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s H -l host -d 'Engine endpoint: unix://, tcp:// or ssh:// [default: $DOCKER_HOST]' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s l -l log-level -d 'Log level: debug, info, warn, error or fatal; debug is the same as -D' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tls -d 'Use TLS; implied by --tlsverify [default: $DOCKER_TLS]' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tlscacert -d 'CA certificate to verify the engine with [default: ca.pem in $DOCKER_CERT_PATH or ~/.docker]' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tlscert -d 'Client certificate to present to the engine [default: cert.pem in $DOCKER_CERT_PATH or ~/.docker]' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tlskey -d 'Key of the client certificate [default: key.pem in $DOCKER_CERT_PATH or ~/.docker]' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l tlsverify -d 'Use TLS and verify the engine\'s certificate [default: $DOCKER_TLS_VERIFY]' -r
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s a -l all-tags -d 'Push all local tags of each repository'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l dry-run -d 'Check and report what would be pushed, without pushing'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l github-output -d 'Set GitHub Actions step outputs: digest, reference'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l keep-tag -d 'Keep the local tags that --to adds'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l no-prompt -d 'Never prompt for credentials'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s q -l quiet -d 'Print only the result, warnings and errors: --progress none'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l save-credentials -d 'Save credentials from prompt or --username, as docker login does'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l plain-http -d 'Use plain HTTP for registries'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l password-stdin -d 'Read the password for --username from stdin'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -l anonymous -d 'Use no credentials, even if Docker has some'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -s V -l version -d 'Print version'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -a "auth" -d 'Show stored credentials for a registry and check that they work'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -a "ls" -d 'List local images, the repositories of a registry, or the tags of a repository'
complete -c docker-regpush -n "__fish_docker_regpush_needs_command" -a "hook" -d 'Manage the hint that docker shows after a failed docker push'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -s u -l username -d 'Username for the registry' -r
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l password-command -d 'Shell command that prints the password for --username' -r
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l ca-file -d 'CA certificates of registries, beside those of the system' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l cert-file -d 'Client certificate for registries' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l key-file -d 'Key of the client certificate' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l tls-verify -d 'Check certificates of registries; --tls-verify=false: accept any' -r
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l format -d 'Output format: "table", "json" (one object per line) (default "table")' -r -f -a "table\t''
json\t''"
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l login -d 'Prompt for credentials, check them, and save them as docker login does'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l force -d 'Save the credentials even if the registry does not check them'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l password-stdin -d 'Read the password for --username from stdin'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -l plain-http -d 'Use plain HTTP for registries'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand auth" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -s u -l username -d 'Username for the registry, for this call only' -r
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l password-command -d 'Shell command that prints the password for --username' -r
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l ca-file -d 'CA certificates of registries, beside those of the system' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l cert-file -d 'Client certificate for registries' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l key-file -d 'Key of the client certificate' -r -F
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l tls-verify -d 'Check certificates of registries; --tls-verify=false: accept any' -r
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l format -d 'Output format: "table", "json" (one object per line) (default "table")' -r -f -a "table\t''
json\t''"
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l password-stdin -d 'Read the password for --username from stdin'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l anonymous -d 'Use no credentials, even if Docker has some'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -l plain-http -d 'Use plain HTTP for registries'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand ls" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and not __fish_seen_subcommand_from install remove status" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and not __fish_seen_subcommand_from install remove status" -f -a "install" -d 'Enable the hint after a failed docker push'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and not __fish_seen_subcommand_from install remove status" -f -a "remove" -d 'Disable the hint after a failed docker push'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and not __fish_seen_subcommand_from install remove status" -f -a "status" -d 'Show whether the hint is enabled, and whether docker shows hints'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and __fish_seen_subcommand_from install" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c docker-regpush -n "__fish_docker_regpush_using_subcommand hook; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
