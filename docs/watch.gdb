# For docs/watch.bash: says which function of kvss is called with what, from the first client to
# come until it's gone.
set confirm off
set pagination off
set print address off
set print frame-info short-location
set print frame-arguments none

break loop_accept
break loop_turn
break client_read
break client_run_lines
break client_answer
break command_put
break command_get
break command_del
commands 1-8
    silent
    python print(gdb.selected_frame().name())
    continue
end

break request_parse
commands
    silent
    printf "request_parse       line: "
    output *r->line.bytes@r->line.len
    echo \n
    continue
end

break request_arguments
commands
    silent
    printf "request_arguments   verb: %s, key: ", r->command->verb
    output *r->key.bytes@r->key.len
    printf ", value: "
    output *r->value.bytes@r->value.len
    echo \n
    continue
end

break store_put
commands
    silent
    printf "store_put           key: "
    output *key.bytes@key.len
    printf ", value: "
    output *value.bytes@value.len
    echo , called by\n
    backtrace
    continue
end

break client_reply
commands
    silent
    printf "client_reply        status: "
    output r->status
    echo \n
    continue
end

break client_send
commands
    silent
    if c->out.len > 0
        printf "client_send         out: "
        output *c->out.bytes@c->out.len
        echo \n
    end
    continue
end

break client_close
commands
    silent
    echo client_close\n
    quit
end

run
