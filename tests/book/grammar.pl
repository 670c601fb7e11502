#!/usr/bin/perl
# Which lines a rule of an ABNF grammar takes: grammar.pl GRAMMAR RULE <LINES prints 1 or 0 for each.
# Strings match in their own case only, as docs/protocol.md has it. No rule may use itself.
use strict;
use warnings;

my %rules = (SP => '%x20', CR => '%x0D', LF => '%x0A', DIGIT => '%x30-39');

sub repeated {
    my ($least, $star, $most) = $_[0] =~ /^(\d*)(\*?)(\d*)$/;
    return $star ? '{' . ($least || 0) . ",$most}" : $least eq '' ? '' : "{$least}";
}

# The text of a rule as a regular expression.
sub regex {
    my ($out, $repeat, @ends) = ('(?:', '');
    for ($_[0] =~ /"[^"]*"|%x\w\w(?:-\w\w)?|\d*\*\d*|\d+|[A-Za-z][\w-]*|[][()\/]/g) {
        if (/^[\d*]/) { $repeat = $_; next }
        if ($_ eq '/') { $out .= '|'; next }
        if ($_ eq '[') { $out .= '(?:'; push @ends, ')?'; next }
        if ($_ eq '(') { $out .= '(?:'; push @ends, ')' . repeated($repeat); $repeat = ''; next }
        if (/^[])]/) { $out .= pop @ends; next }
        if (/^"(.*)"/) { $out .= '(?:' . quotemeta($1) . ')' }
        elsif (/^%x(..)-?(..)?/) { $out .= "[\\x$1-\\x" . ($2 // $1) . ']' }
        else { $out .= regex($rules{$_} // die "there is no rule $_\n") }
        $out .= repeated($repeat);
        $repeat = '';
    }
    return "$out)";
}

my ($grammar, $rule) = @ARGV;
open my $file, '<', $grammar or die "$grammar: $!\n";
while (<$file>) {
    s/;.*//;
    my ($name, $more, $text) = /^([a-z-]+) *=(\/?) *(.*)/ or next;
    $rules{$name} = $more ? "$rules{$name} / $text" : $text;
}
my $regex = regex($rule);
print /\A$regex\z/ ? 1 : 0, "\n" while <STDIN>;
