package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"time"
)

// A segment is a file of records one after the other. A record is
//
//	magic     4 bytes  "GSr1"
//	length    4 bytes  of the content, big endian
//	time      8 bytes  Unix milliseconds, big endian
//	checksum  4 bytes  CRC-32C of the segment's number, length, time and content
//	content
//
// There is no header of the file that all would hang on: what is damaged costs the records it touches and no other. The segment's
// number in the checksum keeps a record that was copied into another file from counting there.
const (
	magic      = "GSr1"
	headerSize = 4 + 4 + 8 + 4
	// maxRecord is far above what a receiver takes; a length beyond it is damage.
	maxRecord = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one that was read.
type record struct {
	content []byte
	time    time.Time
}

// region is bytes of a segment that hold no record.
type region struct{ offset, length int64 }

func appendRecord(to []byte, segment uint64, content []byte, now time.Time) []byte {
	start := len(to)
	to = append(to, magic...)
	to = binary.BigEndian.AppendUint32(to, uint32(len(content)))    //nolint:gosec // bounded by maxRecord
	to = binary.BigEndian.AppendUint64(to, uint64(now.UnixMilli())) //nolint:gosec // after 1970
	to = binary.BigEndian.AppendUint32(to, checksum(segment, to[start+4:start+16], content))
	return append(to, content...)
}

func checksum(segment uint64, header, content []byte) uint32 {
	sum := crc32.Update(0, castagnoli, binary.BigEndian.AppendUint64(nil, segment))
	sum = crc32.Update(sum, castagnoli, header)
	return crc32.Update(sum, castagnoli, content)
}

// readSegment is every record in data that is whole, in order, and where there was something else.
func readSegment(segment uint64, data []byte) (records []record, damaged []region) {
	for offset := 0; offset < len(data); {
		if read, size := recordAt(segment, data[offset:]); size > 0 {
			records = append(records, read)
			offset += size
			continue
		}
		next := offset + 1
		for next < len(data) {
			step := bytes.Index(data[next:], []byte(magic))
			if step < 0 {
				next = len(data)
				break
			}
			next += step
			if _, size := recordAt(segment, data[next:]); size > 0 {
				break
			}
			next++
		}
		damaged = append(damaged, region{int64(offset), int64(next - offset)})
		offset = next
	}
	return records, damaged
}

// recordAt is the record that data begins with; its size is 0 where it begins with none.
func recordAt(segment uint64, data []byte) (record, int) {
	if len(data) < headerSize || string(data[:4]) != magic {
		return record{}, 0
	}
	length := int64(binary.BigEndian.Uint32(data[4:8]))
	if length > maxRecord || length > int64(len(data)-headerSize) {
		return record{}, 0
	}
	content := data[headerSize : headerSize+length]
	if checksum(segment, data[4:16], content) != binary.BigEndian.Uint32(data[16:20]) {
		return record{}, 0
	}
	when := time.UnixMilli(int64(binary.BigEndian.Uint64(data[8:16]))).UTC() //nolint:gosec // as appendRecord wrote it
	return record{content, when}, headerSize + int(length)
}
