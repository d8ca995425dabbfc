//! Every error with which the gateway refuses a command. The numbers are those of the Centrifuge protocol.

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    Internal = 100,
    Unauthorized = 101,
    UnknownChannel = 102,
    PermissionDenied = 103,
    MethodNotFound = 104,
    AlreadySubscribed = 105,
    LimitExceeded = 106,
    BadRequest = 107,
    NotAvailable = 108,
    TokenExpired = 109,
    Expired = 110,
    TooManyRequests = 111,
    UnrecoverablePosition = 112,
    ConcurrentPagination = 113,
}

impl ErrorCode {
    pub const ALL: [Self; 14] = [
        Self::Internal,
        Self::Unauthorized,
        Self::UnknownChannel,
        Self::PermissionDenied,
        Self::MethodNotFound,
        Self::AlreadySubscribed,
        Self::LimitExceeded,
        Self::BadRequest,
        Self::NotAvailable,
        Self::TokenExpired,
        Self::Expired,
        Self::TooManyRequests,
        Self::UnrecoverablePosition,
        Self::ConcurrentPagination,
    ];

    pub const fn code(self) -> u32 {
        self as u32
    }

    pub const fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::Unauthorized => "unauthorized",
            Self::UnknownChannel => "unknown channel",
            Self::PermissionDenied => "permission denied",
            Self::MethodNotFound => "method not found",
            Self::AlreadySubscribed => "already subscribed",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::TokenExpired => "token expired",
            Self::Expired => "expired",
            Self::TooManyRequests => "too many requests",
            Self::UnrecoverablePosition => "unrecoverable position",
            Self::ConcurrentPagination => "concurrent pagination",
        }
    }

    /// Whether the client could have avoided the error. It could not if its token expired meanwhile, if the stream
    /// began a new epoch, or if the gateway failed.
    pub fn is_clients_fault(self) -> bool {
        match self {
            Self::Internal
            | Self::TokenExpired
            | Self::Expired
            | Self::TooManyRequests
            | Self::UnrecoverablePosition
            | Self::ConcurrentPagination => false,
            Self::Unauthorized
            | Self::UnknownChannel
            | Self::PermissionDenied
            | Self::MethodNotFound
            | Self::AlreadySubscribed
            | Self::LimitExceeded
            | Self::BadRequest
            | Self::NotAvailable => true,
        }
    }

    /// Whether the same command may succeed later, so that the client retries by itself.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination)
    }
}
