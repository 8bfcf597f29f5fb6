# Runs a server in a folder of its own and removes both when the process that started us is gone.
#
#   sh -c SCRIPT watchdog FOLDER SIGNAL PROGRAM [ARGUMENT]...
#
# Our standard input is a pipe whose other end that process holds. Its end means stop with SIGNAL and clean up. Before
# that, two lines restart the server: the first names the signal to stop it with, the second one starts it again.
# Standard output tells the server's process id when it starts, and `exited` when it is gone.

# A signal for the whole run must not reach us, and nobody may be left to read what we write.
trap '' HUP INT TERM PIPE

mkdir -m 700 "$1" && cd "$1" || exit
folder=$1 signal=$2
shift 2

# A background process loses its standard input, so the pipe needs another number. Who captures the standard error of
# the run shall not wait for us.
exec 3<&0 </dev/null 2>/dev/null

while
    "$@" >>log 2>&1 3<&- &
    server=$!

    # Again and again: a server that has just been started may still ignore the signal.
    {
        read -r line <&3 && signal=$line
        while kill -s "$signal" "$server"; do sleep 0.05; done
    } &
    stopper=$!

    echo "$server"
    wait "$server"
    kill -s KILL "$stopper"
    wait "$stopper"
    echo exited
    read -r line <&3
do :; done

cd / && rm -rf "$folder"
