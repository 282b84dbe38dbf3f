package drivers_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// psqlScripts are features that are a script on psql's standard input.
var psqlScripts = []struct{ feature, script string }{
	{"queries", `
select 1 as a, 'x' as b, null as c;
\x on
select 1 as a, 'x' as b, null as c;
\x off
\pset format csv
select g, repeat('r', g) from generate_series(1, 5) g;
\gdesc
select 1 as one, now()::date is not null as two \gdesc
select 7 as n \gset
select :n * 6;
;
-- only a comment
select $$a;b$$, ':not a variable' as "c;d";
`},
	{"multi-statement", `
select 1 \; select 'two', 2 \; select generate_series(1, 3);
drop table if exists psql_multi \; create table psql_multi (n int) \; insert into psql_multi values (1), (2);
insert into psql_multi values (3) \; select 1/0 \; insert into psql_multi values (4);
select count(*) from psql_multi;
begin \; insert into psql_multi values (5);
\echo :SQLSTATE
rollback \; select count(*) from psql_multi;
`},
	{"errors, then go on", `
\set VERBOSITY verbose
selec 1;
\echo :SQLSTATE :LAST_ERROR_MESSAGE
select 1/0;
select 'goes on';
create temp table gone (n int primary key check (n > 0)) on commit drop;
begin;
select 1/0;
select 1;
rollback;
select 'goes on';
do $$ begin raise exception 'custom' using errcode = 'XY123', detail = 'd', hint = 'h', column = 'c'; end $$;
\errverbose
\set ON_ERROR_ROLLBACK on
begin;
select 1/0;
select 'still in the transaction';
commit;
`},
	{"notices", `
\set VERBOSITY verbose
drop table if exists never_was;
do $$ begin raise notice 'n' using detail = 'd', hint = 'h'; raise warning 'w'; end $$;
commit;
`},
	{`\gexec`, `
select format('create table if not exists psql_gexec_%s (n int)', g), format('insert into psql_gexec_%s select generate_series(1, %s)', g, g) from generate_series(1, 3) g \gexec
select format('select count(*) from psql_gexec_%s', g) from generate_series(1, 3) g \gexec
select 'select 1/0', 'select ''goes on''' \gexec
drop table psql_gexec_1, psql_gexec_2, psql_gexec_3;
`},
	{`\copy in and out`, `
create table if not exists psql_copy (id int primary key, name text);
truncate psql_copy;
\copy psql_copy from stdin with (format csv)
1,one
2,"two, quoted"
3,
\.
\copy psql_copy to stdout
\copy (select * from psql_copy order by id desc) to stdout with (format csv, header)
\copy psql_copy from program 'seq 10 5009 | sed "s/$/,from a program/"' with (format csv)
select count(*), sum(id) from psql_copy;
\copy psql_copy from stdin with (format csv)
1,duplicate
\.
\copy psql_copy from stdin
not a number	x
\.
\copy psql_copy to program 'sort | sha256sum'
\copy nowhere to stdout
copy psql_copy from stdin;
9001	in a script
\.
select count(*) from psql_copy;
copy (select 1 / (3 - n) from generate_series(1, 5) n) to stdout;
select 'goes on';
begin;
\copy psql_copy from stdin
9002	rolled back
\.
rollback;
select count(*) from psql_copy;
`},
	{"cursors (FETCH_COUNT)", `
\set FETCH_COUNT 10
\pset format unaligned
select g from generate_series(1, 35) g;
select 10 / (25 - g) from generate_series(1, 35) g;
select 'goes on';
begin;
declare c scroll cursor for select generate_series(1, 10);
fetch 3 from c;
move forward 2 in c;
fetch backward 1 from c;
fetch all from c;
commit;
`},
	{"catalog commands", `
create table if not exists psql_described (id int primary key generated always as identity, name text default 'x' not null check (name <> ''));
create index if not exists psql_described_name on psql_described (lower(name));
\d psql_described
\dt psql_described
\di psql_described*
\df pg_catalog.length
\dT+ int4
\l template0
`},
	{"large objects", `
\set VERBOSITY verbose
begin;
\lo_import :file
\lo_export :LASTOID :copy
\lo_unlink :LASTOID
commit;
\! cmp "$FILE" "$COPY" && echo the same
select count(*) from pg_largeobject_metadata;
`},
	{sessionState, `
set timezone = 'Asia/Tokyo';
show timezone;
create temp table mine (n int);
insert into mine values (1);
select n from mine;
prepare p (int) as select $1 * 2;
execute p (21);
deallocate p;
execute p (21);
listen news;
notify news, 'extra';
select pg_try_advisory_lock(9), pg_advisory_unlock(9);
declare held cursor with hold for select generate_series(1, 5);
fetch 2 from held;
discard all;
select n from mine;
`},
}

// psql runs each feature in a psql of its own: what it printed is what it saw.
func psql(ctx context.Context, srv server, _ []string) ([]byte, error) {
	p := psqlProgram{srv: srv, r: &recorder{}}
	version, err := exec.CommandContext(ctx, "psql", "--version").Output()
	if err != nil {
		return nil, err
	}
	p.r.begin("psql", regexp.MustCompile(`\d[\d.]*`).FindString(string(version)))
	for _, s := range psqlScripts {
		p.r.feature = s.feature
		if err := p.script(ctx, s.script); err != nil {
			return nil, err
		}
	}
	p.r.feature = "-c"
	if err := p.commands(ctx); err != nil {
		return nil, err
	}
	p.r.feature = "cancel by SIGINT"
	if err := p.interrupt(ctx); err != nil {
		return nil, err
	}
	return p.r.out.Bytes(), nil
}

type psqlProgram struct {
	srv server
	r   *recorder
}

func (p *psqlProgram) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "psql", append([]string{"--no-psqlrc", "--no-password"}, args...)...)
	cmd.Env = append(os.Environ(), p.srv.env()...)
	cmd.Env = append(cmd.Env, "PAGER=cat", "LC_ALL=C")
	return cmd
}

func (p *psqlProgram) script(ctx context.Context, script string) error {
	dir, err := os.MkdirTemp("", "weir-drivers-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary directory
	file, duplicate := filepath.Join(dir, "file"), filepath.Join(dir, "copy")
	if err := os.WriteFile(file, bytes.Repeat([]byte("large object\n"), 5000), 0o600); err != nil {
		return err
	}
	cmd := p.command(ctx, "--echo-all", "--set", "file="+file, "--set", "copy="+duplicate)
	cmd.Env = append(cmd.Env, "FILE="+file, "COPY="+duplicate)
	cmd.Stdin = strings.NewReader(script)
	return p.run("script", cmd)
}

// largeObject is the one thing psql prints that depends on what was created before.
var largeObject = regexp.MustCompile(`lo_(import|unlink) \d+`)

// process is in the text of a notification.
var process = regexp.MustCompile(`server process with PID \d+`)

func (p *psqlProgram) run(step string, cmd *exec.Cmd) error {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return err
	}
	p.say(step, stdout.String(), stderr.String(), cmd.ProcessState.ExitCode())
	return nil
}

func (p *psqlProgram) say(step, stdout, stderr string, exit int) {
	stdout = largeObject.ReplaceAllString(stdout, "lo_$1 OID")
	stdout = process.ReplaceAllString(stdout, "server process")
	for _, l := range strings.Split(stdout, "\n") {
		p.r.say(step+" stdout", l)
	}
	for _, l := range strings.Split(stderr, "\n") {
		p.r.say(step+" stderr", l)
	}
	p.r.say(step+" exit", exit)
}

func (p *psqlProgram) commands(ctx context.Context) error {
	for _, c := range []struct {
		step string
		args []string
	}{
		{"one", []string{"-c", "select 1"}},
		{"several", []string{"-c", "select 1", "-c", `\echo two`, "-c", "select 3; select 4"}},
		{"error in the middle", []string{"-c", "select 1; select 1/0; select 2", "-c", "select 'goes on'"}},
		{"stop on error", []string{"-v", "ON_ERROR_STOP=1", "-c", "select 1/0", "-c", "select 'never'"}},
		{"one transaction", []string{"-1", "-c", "drop table if exists psql_c", "-c", "create table psql_c (n int)", "-c", "select 1/0"}},
		{"tuples only", []string{"-At", "-c", "select g from generate_series(1, 3) g"}},
		{"list of databases", []string{"-At", "-c", "select datname from pg_database where datname = 'template1'"}},
	} {
		if err := p.run(c.step, p.command(ctx, c.args...)); err != nil {
			return err
		}
	}
	wrong := *p
	wrong.srv.password = "wrong"
	cmd := wrong.command(ctx, "-c", "select 1")
	out, _ := cmd.CombinedOutput() // it fails, which is the point
	port := fmt.Sprintf("port %d", p.srv.port)
	p.r.say("wrong password", strings.ReplaceAll(string(out), port, "port"))
	return nil
}

// interrupt sends SIGINT while a query sleeps, alone, in the middle of a script, and in a transaction.
func (p *psqlProgram) interrupt(ctx context.Context) error {
	watch, err := pgx.Connect(ctx, p.srv.url())
	if err != nil {
		return err
	}
	defer hangUp(ctx, watch)
	for _, c := range []struct {
		step string
		args []string
	}{
		{"alone", []string{"-c", "select pg_sleep(30)"}},
		{"then goes on", []string{"-c", "select pg_sleep(30)", "-c", "select 'goes on'"}},
		{"in a transaction", []string{"-c", "begin", "-c", "select pg_sleep(30)", "-c", "select 'aborted'", "-c", "rollback", "-c", "select 'goes on'"}},
		{"while copying out", []string{"-c", "copy (select pg_sleep(0.01) from generate_series(1, 3000)) to stdout"}},
	} {
		cmd := p.command(ctx, append([]string{"-v", "VERBOSITY=verbose"}, c.args...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		err := waitFor(ctx, watch, sleepers, 1)
		_ = cmd.Process.Signal(syscall.SIGINT) // if it is gone already, Wait says how
		_ = cmd.Wait()                         // the exit code is in the transcript
		if err != nil {
			return err
		}
		out := stdout.String()
		if c.step == "while copying out" {
			out = strings.Trim(out, "\n") // as many empty rows as came before the signal
		}
		p.say(c.step, out, stderr.String(), cmd.ProcessState.ExitCode())
	}
	return nil
}
