# Runs a server in a folder of its own and removes both when the process that started it is gone.
#
#   sh -c SCRIPT watchdog FOLDER SIGNAL PROGRAM [ARGUMENT]...
#
# Standard input is a pipe whose writing end that process holds. When it closes, the server is
# stopped with SIGNAL and the folder is removed. Before that, two lines restart the server: the first
# is the signal that stops it, the second starts it. Standard output gets the server's process id
# when it starts, and `exited` when it is gone.

# Ignores signals for the whole run, and writing to a closed pipe.
trap '' HUP INT TERM PIPE

mkdir -m 700 "$1" && cd "$1" || exit
folder=$1 signal=$2
shift 2

# A background process loses its standard input, so the pipe needs another number. A reader of the
# standard error of the run must not wait for this process.
exec 3<&0 </dev/null 2>/dev/null

while
    "$@" >>log 2>&1 3<&- &
    server=$!

    # Repeats the signal, because a server that has just started may still ignore it.
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
