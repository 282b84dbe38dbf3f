package postgres

import (
	"bytes"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
)

// What lastval and currval return is remembered by the server connection, which may have been another session's: that would be a value
// that somebody else has drawn. So as soon as anybody on a resource asks for it, connections forget what was drawn before they come to
// another session, and the session that asks keeps its own: PostgreSQL's own error (55000) is better than a stranger's value.

// mayAskSequences reports whether a text could say lastval or currval, at a glance.
func mayAskSequences(sql []byte) bool { return saysVal(sql, 'v') || saysVal(sql, 'V') }

// saysVal reports whether a text has "val" in it that begins with v, a small letter or a large one.
func saysVal(sql []byte, v byte) bool {
	for {
		i := bytes.IndexByte(sql, v)
		if i < 0 || len(sql) < i+3 {
			return false
		}
		if wordByte[sql[i+1]] == 'a' && wordByte[sql[i+2]] == 'l' {
			return true
		}
		sql = sql[i+1:]
	}
}

// guardSequences sees to that ahead of the message at i, in whose statement t was found, where nobody on the resource has asked before.
func (k *link) guardSequences(r *rewriting, i int, t touch) {
	if t&touchSequence == 0 || k.session.resource.mode == Session {
		return
	}
	k.session.resource.sequences.Store(true)
	if k.foreign && k.fresh && k.status == pgwire.Idle && !k.unsynced {
		r.cut(i, i)
		r.out = pool.AppendDiscardSequences(r.out)
		k.awaitPrelude()
	}
	k.foreign = false
}

// guardChunk is guardSequences for all that has come from the client when its first message, at i, is looked at.
func (k *link) guardChunk(r *rewriting, i int) {
	if !k.foreign || k.unsynced || !k.fresh || !mayAskSequences(r.chunk[i:]) {
		return
	}
	words := readWords(r.chunk[i:])
	k.guardSequences(r, i, words.found)
}
