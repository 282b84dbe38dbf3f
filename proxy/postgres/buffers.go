package postgres

import "github.com/weirproxy/weir/pool"

// Once a session has used a temporary table, its server connection takes no other temp_buffers (manual, "temp_buffers"), whoever has it by
// then. So as soon as anybody on a resource sets that, connections on which somebody has used a temporary table are replaced
// before they come to another session.

const tempBuffers = "temp_buffers"

// noteBuffers takes note of what statements in which found was have to do with that.
func (k *link) noteBuffers(found touch) {
	if found&(touchTemp|touchHidden) != 0 || found&(touchPath|touchCreate) == touchPath|touchCreate {
		k.server.Buffers = true
	}
	if r := k.session.resource; k.words.buffers && !r.tempBuffers.Load() {
		r.tempBuffers.Store(true)
	}
	k.words.buffers = false
}

// lacksBuffers reports whether the session cannot have the temp_buffers on a server connection that it sets, or may set.
func (k *link) lacksBuffers(server *pool.Server) bool {
	s := k.session
	if !server.Buffers || server.Borrower == s.number {
		return false
	}
	return s.resource.tempBuffers.Load() || s.profile.Settings.Has(tempBuffers)
}
