//! The wire: what a peer may send.

use qbulk::hashtree::{FILE_BYTES_MAX, HashTree};
use qbulk::wire::{
    CONTENT_BYTES_MAX, CONTROL_BYTES_MAX, Control, ControlBuffer, Header, KEPT_MAX, PATH_BYTES_MAX,
    Piece, RUNS_MAX, Record, TABLE_BYTES_MAX, TEXT_BYTES_MAX, WireError, is_path_safe,
};

/// A control stream says the same however it is cut, what it says keeps its limits, and what is sent on
/// is understood as the same.
pub fn control(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let (messages, end) = read(stream, CONTROL_BYTES_MAX);
    assert_eq!(read(stream, usize::from(cut).max(1)), (messages.clone(), end));
    for message in messages {
        match &message {
            Control::Hello { destination, .. } => assert!(destination.len() <= PATH_BYTES_MAX),
            Control::Failed { path, message, .. } => {
                assert!(path.len() <= PATH_BYTES_MAX && message.len() <= TEXT_BYTES_MAX);
            }
            Control::KeptFiles(files) => assert!(files.len() <= KEPT_MAX),
            Control::KeptPieces { pieces, .. } => assert!(pieces.len() <= KEPT_MAX),
            _ => {}
        }
        let mut out = Vec::new();
        message.encode(&mut out);
        assert!(out.len() <= CONTROL_BYTES_MAX + 2);
        assert_eq!(Control::decode(&out), Ok(Some((message, out.len()))));
    }
}

/// The messages of a stream that comes in chunks, and what ended them.
fn read(stream: &[u8], chunk_bytes: usize) -> (Vec<Control>, Option<WireError>) {
    let mut buffer = ControlBuffer::default();
    let mut messages = Vec::new();
    for chunk in stream.chunks(chunk_bytes) {
        buffer.push(chunk);
        loop {
            match buffer.take() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(buffer.waiting_bytes() < CONTROL_BYTES_MAX + 8, "more is kept than a message has");
    }
    (messages, None)
}

/// A header keeps its limits; records hold safe paths and pieces that fit their files; and both are
/// understood as the same when they are sent on.
pub fn stripe(data: &[u8]) {
    let (head, mut table) = data.split_at(data.len().min(Header::BYTES));
    match Header::decode(head) {
        Ok(header) => {
            assert!(header.table_bytes <= TABLE_BYTES_MAX);
            assert!(header.content_bytes <= CONTENT_BYTES_MAX);
            let mut out = Vec::new();
            header.encode(&mut out);
            assert_eq!(out, head);
        }
        Err(_) => assert!(head.len() < Header::BYTES || head[8] > 0 || head[12] > 0),
    }
    while let Ok(record) = Record::decode(&mut table) {
        check(&record);
        let mut out = Vec::new();
        record.encode(&mut out);
        let mut rest = out.as_slice();
        assert_eq!(Record::decode(&mut rest), Ok(record));
        assert!(rest.is_empty());
    }
}

fn check(record: &Record) {
    match record {
        Record::Folder { path, .. } => assert!(path.is_empty() || is_path_safe(path)),
        Record::Symlink { path, target, .. } => {
            assert!(is_path_safe(path) && target.len() <= PATH_BYTES_MAX);
        }
        Record::Piece(piece) => check_piece(piece),
        Record::Seal { .. } | Record::Discard { .. } => {}
    }
}

fn check_piece(piece: &Piece) {
    assert!(is_path_safe(&piece.path));
    assert!(piece.file_bytes <= FILE_BYTES_MAX);
    assert!(piece.offset + piece.len <= piece.file_bytes);
    assert!(piece.len <= CONTENT_BYTES_MAX.into());
    assert!(piece.runs.len() <= RUNS_MAX);
    let mut end = 0;
    for run in &piece.runs {
        assert!(run.offset >= end && run.len > 0, "runs are in order and not empty");
        end = run.offset + run.len;
    }
    assert!(end <= piece.len && piece.content_bytes() <= piece.len);
    let mut tree = HashTree::new(piece.file_bytes);
    assert!(
        piece.file_bytes == 0
            || piece.is_name_only()
            || tree.add(piece.offset, piece.len, piece.hash),
        "a piece is a node of its file's tree"
    );
}
