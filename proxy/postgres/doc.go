// Package postgres is one function's journey in PostgreSQL's protocol. Its files are the stations:
//
//	server.go      the listener's end of it all: options, serving, draining
//	startup.go     the first packets: TLS, protocol version, parameters, or a cancel request
//	login.go       who is it? authentication, what the server reports, the way to an event loop
//	repeat.go      refused logins that are only repeated
//	terms.go       who is it to the gate, and what does it say of itself?
//	session.go     a client that is logged in: idle, waiting, or linked to a server connection
//	admit.go       may its transaction start? the gate, the queue, and what the client is told if not
//	block.go       transaction blocks that no server knows of yet
//	link.go        a client and a server connection, for one transaction
//	upstream.go    what the client sends, on its way to the server
//	downstream.go  what the server answers, on its way to the client
//	statements.go  prepared statements, on whichever server connection comes next
//	unnamed.go     the one without a name
//	content.go     what they prepare, shared by all who prepare the same
//	outdated.go    when a table was altered since
//	deallocate.go  SQL's DEALLOCATE of such a statement
//	execute.go     SQL's EXECUTE of one
//	sqltext        the words and strings of SQL
//	reading.go     what do they say?
//	sequence.go    what lastval returns
//	touch.go       could a statement leave something behind in the session?
//	pinning.go     may it? What becomes of sessions that would keep their server connection
//	parameters.go  which run-time parameters does it set?
//	inquiry.go     what did it leave? The server knows
//	recall.go      or has said so before
//	replication.go the other kind of session: a client and a walsender, for as long as it lasts
//	cancel.go      the keys of cancel requests
//	stats.go       what is counted
//	sessions.go    who is there, one by one
//
// Up to the end of login a client is served by a fiber (package eventloop), with code that reads as if it blocked, on the loop
// its session will live on; where logins take much arithmetic, on one of the porch, a group of loops for nothing else. From
// then on it lives on a loop for sessions, and idle it is no more than its session struct.
package postgres
