// Package auth is how a PostgreSQL client proves who it is to weir.
//
// The journey of one login:
//
//	Config, Secret   what the operator wrote, parsed and checked once
//	Users            the table made of it for one method; replaced whole on a reload
//	Users.Begin      looks a name up, or makes up a mock secret for a name that is not there
//	Exchange         the conversation, a state machine without I/O: Start, then Step for each message
//	Failure          why it ended badly: what the client may read, and what only the log may
//
// The conversation is driven by whoever owns the connection:
//
//	x := users.Begin(name, binding)
//	out, done, err := x.Start(nil)
//	for err == nil && !done {
//		send(out)
//		out, done, err = x.Step(out[:0], receive('p', x.Limit()))
//	}
//
// What Start and Step return are whole Authentication messages. The last ones end with AuthenticationOk and are still
// to be sent, so that ParameterStatus and the rest can follow in the same write.
//
// A name that is not in the table gets the same messages, the same work and the same refusal as a wrong password: the
// mock secret is always computed, and takes the method, salt length and iteration count of the secrets that are there.
package auth
