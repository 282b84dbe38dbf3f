package pgwire

import "encoding/binary"

// AppendMessage appends a message of type t whose body is the concatenation of parts.
func AppendMessage(dst []byte, t byte, parts ...[]byte) []byte {
	n := 4
	for _, p := range parts {
		n += len(p)
	}
	dst = append(dst, t)
	dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// AppendQuery appends a simple Query.
func AppendQuery(dst []byte, sql string) []byte {
	dst = append(dst, Query)
	dst = binary.BigEndian.AppendUint32(dst, uint32(4+len(sql)+1))
	return append(append(dst, sql...), 0)
}

// AppendReadyForQuery appends ReadyForQuery with a transaction status indicator.
func AppendReadyForQuery(dst []byte, status byte) []byte {
	return append(dst, ReadyForQuery, 0, 0, 0, 5, status)
}

// AppendParameterStatus appends ParameterStatus.
func AppendParameterStatus(dst []byte, name, value string) []byte {
	dst = append(dst, ParameterStatus)
	dst = binary.BigEndian.AppendUint32(dst, uint32(4+len(name)+1+len(value)+1))
	dst = append(append(dst, name...), 0)
	return append(append(dst, value...), 0)
}

// AppendBackendKeyData appends BackendKeyData; key has 4 to 256 bytes.
func AppendBackendKeyData(dst []byte, pid uint32, key []byte) []byte {
	dst = append(dst, BackendKeyData)
	dst = binary.BigEndian.AppendUint32(dst, uint32(4+4+len(key)))
	dst = binary.BigEndian.AppendUint32(dst, pid)
	return append(dst, key...)
}

// AppendNegotiateProtocolVersion appends NegotiateProtocolVersion: the newest version we speak, as in a startup packet,
// and the protocol options we do not know.
func AppendNegotiateProtocolVersion(dst []byte, version uint32, unknown []string) []byte {
	n := 4 + 4 + 4
	for _, u := range unknown {
		n += len(u) + 1
	}
	dst = append(dst, NegotiateProtocolVersion)
	dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	dst = binary.BigEndian.AppendUint32(dst, version)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(unknown)))
	for _, u := range unknown {
		dst = append(append(dst, u...), 0)
	}
	return dst
}
