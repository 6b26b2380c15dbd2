# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_vestibule_global_optspecs
    string join \n h/help V/version
end

function __fish_vestibule_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_vestibule_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_vestibule_using_subcommand
    set -l cmd (__fish_vestibule_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c vestibule -n "__fish_vestibule_needs_command" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_needs_command" -s V -l version -d 'Print version'
complete -c vestibule -n "__fish_vestibule_needs_command" -f -a "serve" -d 'Accept, verify and carry on connections until told to stop (this is what `vestibule` alone does)'
complete -c vestibule -n "__fish_vestibule_needs_command" -f -a "check" -d 'Read a configuration and say what is wrong with it'
complete -c vestibule -n "__fish_vestibule_needs_command" -f -a "config" -d 'Show what was understood of a configuration, in Dovecot\'s form'
complete -c vestibule -n "__fish_vestibule_needs_command" -f -a "ctl" -d 'Ask a running daemon, or tell it what to do'
complete -c vestibule -n "__fish_vestibule_needs_command" -f -a "doctor" -d 'Say whether this machine can run the daemon, and what keeps it from running well'
complete -c vestibule -n "__fish_vestibule_needs_command" -f -a "decode" -d 'Decode a PROXY protocol header from standard input'
complete -c vestibule -n "__fish_vestibule_needs_command" -f -a "encode" -d 'Encode a PROXY protocol header to standard output'
complete -c vestibule -n "__fish_vestibule_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vestibule -n "__fish_vestibule_using_subcommand serve" -s c -l config -d 'Configuration in Dovecot\'s syntax; the built-in one if not given' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand serve" -l takeover -d 'Take over from the running daemon whose takeover_socket is PATH: its listening sockets, the connections whose header is half read, and its live sessions' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand serve" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand check" -s c -l config -d 'The configuration file, in Dovecot\'s syntax; - is standard input [default: the built-in configuration]' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand check" -l dovecot -d 'Also say, in Dovecot\'s own words, what Dovecot would refuse; exit code 78 if it would' -r -f -a "auto\t'The one that the file is written for'
2.3\t''
2.4\t''"
complete -c vestibule -n "__fish_vestibule_using_subcommand check" -l strict -d 'Take warnings for errors: exit code 78 if there is one'
complete -c vestibule -n "__fish_vestibule_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand config" -s c -l config -d 'The configuration file, in Dovecot\'s syntax; - is standard input [default: the built-in configuration]' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand config" -s a -l all -d 'Show settings that have their default value, too'
complete -c vestibule -n "__fish_vestibule_using_subcommand config" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "stats" -d 'Show what a running daemon has counted since its start: the table that it prints at its end'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "backends" -d 'Show the backends and their servers'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "server" -d 'Change a server until the next reload: what it is to do, or its weight'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "who" -d 'Show the sessions that there are, the oldest first'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "session" -d 'Find a session by its id: as this daemon logs it, or as Dovecot does'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "events" -d 'Follow what happens, as `tail -f` does: refusals, servers, sessions ended by operators, bans, drains, reloads, takeovers'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "log" -d 'Follow the daemon\'s log, wherever that goes, as `tail -f` does'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "top" -d 'Show it live: rates, servers, what is wrong, and who is refused, drawn anew every second'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "refused" -d 'Show who was refused of late, why, and what they had sent, the last first'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "kick" -d 'End the sessions of a client, one session, or those that `ctl who` shows with the same filters'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "trust" -d 'Show which networks may send PROXY headers and when each was used last, and who has come from outside; or what becomes of one address'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "ban" -d 'Ban a client, as the headers name it, for a time or for good'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "unban" -d 'Lift a ban'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "bans" -d 'Show the bans in force, the first to end first'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "reload" -d 'Read the configuration again, and tell how that went'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "drain" -d 'Stop accepting and finish what is there, as SIGUSR1 does; `resume` takes it back'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "resume" -d 'Accept again after `drain` or SIGUSR1, or at a listener that was drained; sessions that were not let go yet go on'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "rebalance" -d 'End sessions of the fullest server of a backend, so that their clients come to the others'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "shutdown" -d 'End the daemon as SIGTERM does: drain, then leave'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and not __fish_seen_subcommand_from stats backends server who session events log top refused kick trust ban unban bans reload drain resume rebalance shutdown help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from stats" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from stats" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from stats" -l json -d 'Print one line of JSON'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from stats" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from backends" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from backends" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from backends" -l json -d 'Print one line of JSON'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from backends" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from server" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from server" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from server" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -l client -d 'Only those of this client: an address or a network' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -l backend -d 'Only those of this backend' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -l server -d 'Only those at servers of this name' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -l tls -d 'Only those whose client speaks TLS, wherever that ends; or only the others' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -l sni -d 'Only those whose client has asked for this server name by TLS' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -l limit -d 'Most that are shown, up to 10000' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -l json -d 'Print one line of JSON'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from who" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from session" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from session" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from session" -l json -d 'Print one line of JSON'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from session" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from events" -l last -d 'So many of the past first' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from events" -l kind -d 'Only these kinds; all but relay and log if none is named' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from events" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from events" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from events" -l once -d 'Only those of the past'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from events" -l json -d 'Print a line of JSON for each'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from events" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from log" -l last -d 'So many of the past first' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from log" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from log" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from log" -l once -d 'Only those of the past'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from log" -l json -d 'Print a line of JSON for each'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from log" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from top" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from top" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from refused" -l limit -d 'Most that are shown' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from refused" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from refused" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from refused" -l json -d 'Print one line of JSON'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from refused" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from kick" -l client -d 'Only those of this client: an address or a network' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from kick" -l backend -d 'Only those of this backend' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from kick" -l server -d 'Only those at servers of this name' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from kick" -l tls -d 'Only those whose client speaks TLS, wherever that ends; or only the others' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from kick" -l sni -d 'Only those whose client has asked for this server name by TLS' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from kick" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from kick" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from kick" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from trust" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from trust" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from trust" -l json -d 'Print one line of JSON'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from trust" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from ban" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from ban" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from ban" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from unban" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from unban" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from unban" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from bans" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from bans" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from bans" -l json -d 'Print one line of JSON'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from bans" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from reload" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from reload" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from reload" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from drain" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from drain" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from drain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from resume" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from resume" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from resume" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from rebalance" -l rate -d 'Sessions that are ended in a second' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from rebalance" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from rebalance" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from rebalance" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from shutdown" -s c -l config -d 'The configuration file of the daemon, which has the path as its control_socket' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from shutdown" -l socket -d 'The path itself' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from shutdown" -s h -l help -d 'Print help'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "stats" -d 'Show what a running daemon has counted since its start: the table that it prints at its end'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "backends" -d 'Show the backends and their servers'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "server" -d 'Change a server until the next reload: what it is to do, or its weight'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "who" -d 'Show the sessions that there are, the oldest first'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "session" -d 'Find a session by its id: as this daemon logs it, or as Dovecot does'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "events" -d 'Follow what happens, as `tail -f` does: refusals, servers, sessions ended by operators, bans, drains, reloads, takeovers'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "log" -d 'Follow the daemon\'s log, wherever that goes, as `tail -f` does'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "top" -d 'Show it live: rates, servers, what is wrong, and who is refused, drawn anew every second'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "refused" -d 'Show who was refused of late, why, and what they had sent, the last first'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "kick" -d 'End the sessions of a client, one session, or those that `ctl who` shows with the same filters'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "trust" -d 'Show which networks may send PROXY headers and when each was used last, and who has come from outside; or what becomes of one address'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "ban" -d 'Ban a client, as the headers name it, for a time or for good'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "unban" -d 'Lift a ban'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "bans" -d 'Show the bans in force, the first to end first'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "reload" -d 'Read the configuration again, and tell how that went'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "drain" -d 'Stop accepting and finish what is there, as SIGUSR1 does; `resume` takes it back'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "resume" -d 'Accept again after `drain` or SIGUSR1, or at a listener that was drained; sessions that were not let go yet go on'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "rebalance" -d 'End sessions of the fullest server of a backend, so that their clients come to the others'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "shutdown" -d 'End the daemon as SIGTERM does: drain, then leave'
complete -c vestibule -n "__fish_vestibule_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vestibule -n "__fish_vestibule_using_subcommand doctor" -s c -l config -d 'The configuration whose needs are looked at [default: the built-in configuration]' -r -F
complete -c vestibule -n "__fish_vestibule_using_subcommand doctor" -l backends -d 'Look at the servers of the backends, not at this machine: each is asked once, as a session would begin, and a line says what its port speaks. Each writes as much into its log as a check does. Takes 15 seconds at most, unless there are more than 64 servers'
complete -c vestibule -n "__fish_vestibule_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand decode" -l header-limit -d 'Refuse version 2 headers of more bytes, as the setting `header_limit` does' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand decode" -l hex -d 'Read hexadecimal text instead, one input a line, and answer each with one line'
complete -c vestibule -n "__fish_vestibule_using_subcommand decode" -l explain -d 'Print an annotated dump for a human instead of JSON, or what the bytes are if they are no header'
complete -c vestibule -n "__fish_vestibule_using_subcommand decode" -l v4-in-tcp6 -d 'Accept IPv4 text under TCP6, as the setting `haproxy_v4_in_tcp6 = map` does'
complete -c vestibule -n "__fish_vestibule_using_subcommand decode" -l v6-in-tcp4 -d 'Accept IPv6 text under TCP4, as the setting `haproxy_v6_in_tcp4 = map` does'
complete -c vestibule -n "__fish_vestibule_using_subcommand decode" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -l source -d 'The client\'s address and port' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -l destination -d 'The address and port that the client connected to' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -l tlv -d 'A TLV: its type, and its value in hexadecimal digits; may be given again' -r
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -l v1 -d 'Version 1, one line of text'
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -l v2 -d 'Version 2, binary (the default)'
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -l local -d 'LOCAL, a connection of the proxy\'s own such as a health check: 16 bytes; addresses are not sent'
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -l crc32c -d 'Add a CRC32C checksum'
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -l hex -d 'Print hexadecimal digits and a line feed instead of the bytes'
complete -c vestibule -n "__fish_vestibule_using_subcommand encode" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and not __fish_seen_subcommand_from serve check config ctl doctor decode encode help" -f -a "serve" -d 'Accept, verify and carry on connections until told to stop (this is what `vestibule` alone does)'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and not __fish_seen_subcommand_from serve check config ctl doctor decode encode help" -f -a "check" -d 'Read a configuration and say what is wrong with it'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and not __fish_seen_subcommand_from serve check config ctl doctor decode encode help" -f -a "config" -d 'Show what was understood of a configuration, in Dovecot\'s form'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and not __fish_seen_subcommand_from serve check config ctl doctor decode encode help" -f -a "ctl" -d 'Ask a running daemon, or tell it what to do'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and not __fish_seen_subcommand_from serve check config ctl doctor decode encode help" -f -a "doctor" -d 'Say whether this machine can run the daemon, and what keeps it from running well'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and not __fish_seen_subcommand_from serve check config ctl doctor decode encode help" -f -a "decode" -d 'Decode a PROXY protocol header from standard input'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and not __fish_seen_subcommand_from serve check config ctl doctor decode encode help" -f -a "encode" -d 'Encode a PROXY protocol header to standard output'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and not __fish_seen_subcommand_from serve check config ctl doctor decode encode help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "stats" -d 'Show what a running daemon has counted since its start: the table that it prints at its end'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "backends" -d 'Show the backends and their servers'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "server" -d 'Change a server until the next reload: what it is to do, or its weight'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "who" -d 'Show the sessions that there are, the oldest first'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "session" -d 'Find a session by its id: as this daemon logs it, or as Dovecot does'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "events" -d 'Follow what happens, as `tail -f` does: refusals, servers, sessions ended by operators, bans, drains, reloads, takeovers'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "log" -d 'Follow the daemon\'s log, wherever that goes, as `tail -f` does'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "top" -d 'Show it live: rates, servers, what is wrong, and who is refused, drawn anew every second'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "refused" -d 'Show who was refused of late, why, and what they had sent, the last first'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "kick" -d 'End the sessions of a client, one session, or those that `ctl who` shows with the same filters'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "trust" -d 'Show which networks may send PROXY headers and when each was used last, and who has come from outside; or what becomes of one address'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "ban" -d 'Ban a client, as the headers name it, for a time or for good'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "unban" -d 'Lift a ban'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "bans" -d 'Show the bans in force, the first to end first'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "reload" -d 'Read the configuration again, and tell how that went'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "drain" -d 'Stop accepting and finish what is there, as SIGUSR1 does; `resume` takes it back'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "resume" -d 'Accept again after `drain` or SIGUSR1, or at a listener that was drained; sessions that were not let go yet go on'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "rebalance" -d 'End sessions of the fullest server of a backend, so that their clients come to the others'
complete -c vestibule -n "__fish_vestibule_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "shutdown" -d 'End the daemon as SIGTERM does: drain, then leave'
