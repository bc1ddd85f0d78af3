//! The wire: what a peer may send.

use std::fmt::Debug;

use qbulk::hashtree::{FILE_BYTES_MAX, HashTree};
use qbulk::wire::{
    Answer, CONTENT_BYTES_MAX, CONTROL_BYTES_MAX, Header, KEPT_MAX, Message, MessageBuffer,
    PATH_BYTES_MAX, PULL_SOURCES_MAX, Piece, Question, RUNS_MAX, Record, Request, TABLE_BYTES_MAX,
    TEXT_BYTES_MAX, ToReceiver, ToSender, VerifyRequest, WireError, XATTRS_BYTES_MAX, is_path_safe,
};

/// A stream says the same however it is cut, what it says keeps its limits, and what is sent on is understood as the
/// same, whatever role it is read in.
pub fn control(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let cut = usize::from(cut).max(1);
    says::<Request>(stream, cut, |request| match request {
        Request::Push(push) => assert!(push.destination.len() <= PATH_BYTES_MAX),
        Request::Pull(pull) => assert!(pull.sources.len() <= PULL_SOURCES_MAX),
        Request::Verify(VerifyRequest { destination, .. }) => {
            assert!(destination.len() <= PATH_BYTES_MAX);
        }
        Request::List(list) => assert!(list.path.len() <= PATH_BYTES_MAX),
        Request::Sweep(sweep) => {
            assert!(sweep.scopes.iter().all(|scope| scope.is_empty() || is_path_safe(scope)));
        }
        Request::Survey(survey) => assert!(survey.sources.len() <= PULL_SOURCES_MAX),
    });
    says::<ToSender>(stream, cut, |message| match message {
        ToSender::Failed { path, message, .. } => {
            assert!(path.len() <= PATH_BYTES_MAX && message.len() <= TEXT_BYTES_MAX);
        }
        ToSender::KeptFiles(files) => assert!(files.len() <= KEPT_MAX),
        ToSender::KeptPieces { pieces, .. } => assert!(pieces.len() <= KEPT_MAX),
        _ => {}
    });
    says::<ToReceiver>(stream, cut, |message| {
        if let ToReceiver::Unsent { path, message, .. } = message {
            assert!(path.len() <= PATH_BYTES_MAX && message.len() <= TEXT_BYTES_MAX);
        }
    });
    says::<Question>(stream, cut, |question| match question {
        Question::Compare { path, .. } => assert!(is_path_safe(path)),
        Question::Look { all, .. } => {
            assert!(all.iter().all(|expected| is_path_safe(&expected.path)));
        }
        Question::Ask { all, .. } => assert!(all.iter().all(|named| is_path_safe(&named.path))),
        Question::Expect { .. } | Question::AtSource { .. } | Question::Sweep { .. } => {}
    });
    says::<Answer>(stream, cut, |answer| match answer {
        Answer::Listed(listed) => assert!(is_path_safe(&listed.name)),
        Answer::ListFolder(path) => assert!(path.is_empty() || is_path_safe(path)),
        _ => {}
    });
}

fn says<M: Message + PartialEq + Debug>(stream: &[u8], cut: usize, check: impl Fn(&M)) {
    let (messages, end) = read::<M>(stream, CONTROL_BYTES_MAX);
    let (same, same_end) = read::<M>(stream, cut);
    assert_eq!((&messages, end), (&same, same_end));
    for message in messages {
        check(&message);
        let mut out = Vec::new();
        message.encode(&mut out);
        assert!(out.len() <= CONTROL_BYTES_MAX + 2);
        assert_eq!(M::decode(&out), Ok(Some((message, out.len()))));
    }
}

/// The messages of a stream that comes in chunks, and what ended them.
fn read<M: Message>(stream: &[u8], chunk_bytes: usize) -> (Vec<M>, Option<WireError>) {
    let mut buffer = MessageBuffer::default();
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
        Record::Kept { path, file_bytes, .. } | Record::Adopt { path, file_bytes, .. } => {
            assert!(is_path_safe(path) && *file_bytes <= FILE_BYTES_MAX);
        }
        Record::With { extra, record } => {
            let xattrs = extra.xattrs.iter().flatten();
            let bytes: usize = xattrs.map(|xattr| xattr.name.len() + xattr.value.len()).sum();
            assert!(bytes <= XATTRS_BYTES_MAX && record.extra().is_none());
            check(record);
        }
        Record::Special { path, .. } => assert!(is_path_safe(path)),
        Record::Link { path, of, .. } => assert!(is_path_safe(path) && is_path_safe(of)),
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
